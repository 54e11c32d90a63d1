"""A JSON object from a file that anyone may have written: bounded, unambiguous, finite."""

import json
import math
import stat
from collections import Counter
from pathlib import Path
from typing import Any, Never

from autotune.errors import BadInput

MAX_BYTES = 1 << 20
"""The largest configuration published is some 100 kB, nearly all of it lists per layer."""
MAX_DIGITS = 19
"""Of an integer: what 64 bits hold."""


def read_object(file: Path) -> dict[str, Any]:
    """Read the one JSON object in `file`.

    Raises BadInput where the file cannot be read, is no regular file, exceeds MAX_BYTES, or is not UTF-8
    JSON with an object at its top, finite numbers and no key twice.
    """
    data = _bytes(file)
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_int=_integer,
            parse_float=_finite,
        )
    except UnicodeDecodeError:
        raise BadInput(f"{file} is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"{file} is not JSON: {error}") from None
    except RecursionError:
        raise BadInput(f"{file} is nested too deeply") from None
    except ValueError as error:
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


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:60]!r} stands in it twice")
    return result


def _no_constant(text: str) -> Never:
    raise ValueError(f"{text} is not a number that JSON knows")


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"the integer {text[:20]}… does not fit 64 bits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is out of range")
    return value
