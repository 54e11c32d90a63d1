"""`Columns`: many configurations at once, as one numpy array per field of TrainingConfig."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trials.contract.config import TrainingConfig, choices
from trials.contract.message import ContractError, nearest, shown

Value = bool | int | str
"""What a field of TrainingConfig can hold."""
Column = NDArray[Any]
Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]

FIELDS: tuple[str, ...] = tuple(TrainingConfig.model_fields)


def encode(field: str, value: Value) -> int | bool:
    """What a column of `field` holds for `value`; raises ContractError where the field has no such value."""
    if field not in FIELDS:
        raise ContractError(f"unknown field {field!r}{nearest(field, list(FIELDS))}")
    known = choices(field)
    if known is None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ContractError(f"{field}: a whole number is needed, not {shown(value)}")
        if not 1 <= value <= 2**24:
            raise ContractError(f"{field}: {value} lies outside 1 to {2**24}")
        return value
    if known == (False, True):
        if not isinstance(value, bool):
            raise ContractError(f"{field}: true or false is needed, not {shown(value)}")
        return value
    if value not in known:
        near = nearest(str(value), [str(choice) for choice in known])
        raise ContractError(f"{field}: {shown(value)} is not a value of it{near}")
    return known.index(value)


def column(field: str, values: Iterable[Value]) -> Column:
    """`values` as a column of `field`, shape (n,); raises ContractError as `encode` does."""
    return np.array([encode(field, value) for value in values], dtype=_dtype(field))


def _valid_column(field: str, values: Iterable[Value]) -> Column:
    """Of values that a TrainingConfig has, which need no checking."""
    if _dtype(field) is not np.int8:
        return np.array(list(values), dtype=_dtype(field))
    codes: dict[Value, int] = {value: code for code, value in enumerate(choices(field) or ())}
    return np.array([codes[value] for value in values], dtype=np.int8)


def _dtype(field: str) -> type[np.generic]:
    known = choices(field)
    if known is None:
        return np.int64
    return np.bool_ if known == (False, True) else np.int8


@dataclass(frozen=True, eq=False)
class Columns:
    """A table of configurations: one array of shape (n,) per field of TrainingConfig.

    Counts are int64, flags bool, and the other fields int8 codes: positions in `choices(field)`.
    An array that holds one value n times may have stride 0, and is read-only then.
    """

    values: Mapping[str, Column]

    def __post_init__(self) -> None:
        if tuple(self.values) != FIELDS:
            raise ValueError(f"columns are needed for the fields {', '.join(FIELDS)}, in this order")
        if len({len(array) for array in self.values.values()}) != 1:
            raise ValueError("columns of different lengths make no table")

    @classmethod
    def of(cls, configs: Sequence[TrainingConfig]) -> "Columns":
        return cls({field: _valid_column(field, map(attrgetter(field), configs)) for field in FIELDS})

    def __len__(self) -> int:
        return len(self.values[FIELDS[0]])

    def count(self, field: str) -> Counts:
        """The column of a field that holds counts."""
        return self.values[field]

    def is_in(self, field: str, values: Iterable[Value]) -> Mask:
        """Mask of shape (n,): whether the field has one of `values`."""
        array = self.values[field]
        constant = len(array) > 0 and array.strides == (0,)
        tested = array[:1] if constant else array
        mask: Mask = np.zeros(len(tested), dtype=np.bool_)
        for value in values:
            mask |= tested == encode(field, value)
        return np.broadcast_to(mask, len(array)) if constant else mask

    def distinct(self, field: str) -> tuple[Value, ...]:
        """The values that occur, in ascending order of their codes."""
        array = self.values[field]
        constant = array.strides == (0,)
        return tuple(_decode(field, code) for code in np.unique(array[:1] if constant else array))

    def select(self, rows: Mask | Counts) -> "Columns":
        """The rows of a mask of shape (n,), or those with the given indices."""
        num_rows = int(np.count_nonzero(rows)) if rows.dtype == np.bool_ else len(rows)

        def chosen(array: Column) -> Column:
            if num_rows and array.strides == (0,):
                return np.broadcast_to(array[0], num_rows)
            return array[rows]

        return Columns({field: chosen(array) for field, array in self.values.items()})

    def between(self, start: int, stop: int) -> "Columns":
        """The rows from `start` to before `stop`, without copying them."""
        return Columns({field: array[start:stop] for field, array in self.values.items()})

    def replace(self, field: str, array: Column) -> "Columns":
        """The same table with another column of shape (n,) for `field`."""
        return Columns({**self.values, field: array})

    def config(self, row: int) -> TrainingConfig:
        """The configuration of one row; raises IndexError where there is none."""
        return TrainingConfig(**{field: _decode(field, array[row]) for field, array in self.values.items()})

    def configs(self) -> list[TrainingConfig]:
        return [self.config(row) for row in range(len(self))]


def _decode(field: str, code: Any) -> Any:
    known = choices(field)
    return int(code) if known is None else known[int(code)]
