"""One dimension of a space: a field of TrainingConfig and the values it may take."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from search_spaces.columns import FIELDS, Value, encode
from trials.contract.config import Count, choices
from trials.contract.message import ContractError, Message, nearest

DERIVED = "gradient_accumulation_steps"
MAX_CONFIGURATIONS = 5_000_000
"""Bound of a space: some seconds of enumeration and about a gigabyte."""


class CountRange(Message):
    """`{min, max}` with a `step`, or with a `factor` for 1, 2, 4, …; both ends belong to it."""

    min: Count = 1
    max: Count
    step: Count | None = None
    factor: int | None = Field(default=None, ge=2)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        if self.step is not None and self.factor is not None:
            raise ValueError("step and factor exclude each other")
        return self

    def counts(self) -> Sequence[int]:
        if self.factor is None:
            return range(self.min, self.max + 1, self.step or 1)
        counts = [self.min]
        while counts[-1] * self.factor <= self.max:
            counts.append(counts[-1] * self.factor)
        return counts


def dimension(field: str, given: object) -> tuple[Value, ...]:
    """The choices of `field` from one value, a list of values or a range, each once, in the order given.

    Raises ContractError naming the field and what is wrong with it.
    """
    if field not in FIELDS:
        raise ContractError(f"unknown field {field!r}{nearest(field, list(FIELDS))}")
    values = _values(field, given)
    if not values:
        raise ContractError(f"{field}: at least one value is needed")
    if len(values) > MAX_CONFIGURATIONS:
        raise ContractError(
            f"{field}: {len(values)} values are more than a space may have; use a larger step"
        )
    for value in values:
        encode(field, value)
    distinct = tuple(dict.fromkeys(values))
    if field == DERIVED and len(distinct) > 1:
        raise ContractError(f"{DERIVED} follows from the global batch; it can be pinned to one value only")
    return distinct


def _values(field: str, given: object) -> Sequence[Any]:
    if isinstance(given, Mapping):
        if choices(field) is not None:
            raise ContractError(f"{field}: a list of values is needed, since it has no range")
        try:
            return CountRange.parse(given).counts()
        except ContractError as error:
            raise ContractError(f"{field}: {error}") from error
    if isinstance(given, list | tuple):
        return given
    return [given]


def parse_setting(text: str) -> tuple[str, tuple[Value, ...]]:
    """Read `field=value[,value]` into the field and its typed values; raises ContractError."""
    field, equals, words = text.partition("=")
    field = field.strip()
    if not equals:
        raise ContractError(f"{text!r} sets nothing; write field=value or field=value,value")
    return field, dimension(field, [_typed(field, word.strip()) for word in words.split(",")])


def _typed(field: str, word: str) -> Value:
    """A word of the command line as its field's type; what does not fit stays text, for `encode` to name."""
    known = choices(field) if field in FIELDS else ()
    if known is None and word.isascii() and word.isdigit() and len(word) < 20:
        return int(word)
    if known == (False, True):
        return {"true": True, "false": False}.get(word.lower(), word)
    return word
