"""A JSON object that anyone may have written, in a file or in hand: bounded, unambiguous, finite."""

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.errors import BadInput
from search_spaces.documents import parse_json
from trials.contract.message import ContractError

MAX_BYTES = 1 << 20
"""The largest configuration published is some 100 kB, nearly all of it lists per layer."""


def read_object(file: Path) -> dict[str, Any]:
    """Read the one JSON object in `file`.

    Raises BadInput where the file cannot be read, is no regular file, exceeds MAX_BYTES, or is not UTF-8
    JSON with an object at its top, finite numbers and no key twice.
    """
    try:
        value = parse_json(_bytes(file).decode())
    except UnicodeDecodeError:
        raise BadInput(f"{file} is not UTF-8 text") from None
    except ContractError as error:
        raise BadInput(f"{file}: {error}") from None
    if not isinstance(value, dict):
        raise BadInput(f"{file} must hold a JSON object, like the config.json of a model on the Hub")
    return value


def plain_object(given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A copy of `given` as if read from a file; raises BadInput naming `what` under the same conditions."""
    try:
        text = json.dumps(given, default=_as_dict)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"{what} holds what JSON cannot: {error}") from None
    if len(text) > MAX_BYTES:
        raise BadInput(f"{what} is larger than 1 MiB, so it is not a model's configuration")
    try:
        value: dict[str, Any] = parse_json(text)
    except ContractError as error:
        raise BadInput(f"{what}: {error}") from None
    return value


def _as_dict(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__}")


def _bytes(file: Path) -> bytes:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise BadInput(f"{file} is not a regular file")
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise BadInput(f"{file} is larger than 1 MiB, so it is not a model's configuration")
    return data
