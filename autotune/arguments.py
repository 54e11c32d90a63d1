"""What Python callers pass, in each of the forms they may, as a request has it; all raise BadInput."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from autotune.errors import BadInput
from autotune.hardware.sizes import parse_share
from search_spaces.columns import Value
from search_spaces.dimensions import dimension
from trials.contract.config import TrainingConfig
from trials.contract.message import ContractError

Words = str | os.PathLike[str] | Mapping[str, Any]
"""A name, a path, or the object that stands in such a file."""
Choices = Value | Iterable[Value] | Mapping[str, int]
"""One value, several, or a range as spaces have it: `{"min": 1, "max": 16}`."""


def words(given: Words) -> str | Mapping[str, Any]:
    return os.fspath(given) if isinstance(given, os.PathLike) else given


def size(ceiling: str | int | None) -> str | None:
    """A number is bytes."""
    return ceiling if isinstance(ceiling, str | None) else str(ceiling)


def share(given: float | str, what: str) -> float:
    """`0.05` or `"5%"`."""
    return parse_share(str(given), what)


def count(given: int | None, what: str) -> int | None:
    if given is not None and (not isinstance(given, int) or given < 1):
        raise BadInput(f"{what} must be a whole number from 1, not {given!r:.40}")
    return given


def settings(given: Mapping[str, Choices] | None) -> dict[str, tuple[Value, ...]]:
    try:
        return {field: dimension(field, _values(values)) for field, values in (given or {}).items()}
    except ContractError as error:
        raise BadInput(f"set: {error}") from error


def _values(given: Choices) -> object:
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        return given
    return list(given)


def baseline(given: Mapping[str, Value] | TrainingConfig | None) -> TrainingConfig | None:
    if given is None or isinstance(given, TrainingConfig):
        return given
    try:
        return TrainingConfig.parse(given)
    except ContractError as error:
        raise BadInput(f"baseline: {error}") from error
