"""A JSON object from a file that anyone may have written: bounded, unambiguous, finite."""

import stat
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
