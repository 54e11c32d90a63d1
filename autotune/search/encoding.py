"""Between configurations and the parameters that a study, and its dashboard, show for them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.columns import FIELDS, Columns, Counts, Mask, Value, encode
from trials.contract.config import TrainingConfig

ParameterValue = str | int | bool
Codes = NDArray[np.int64]

JOINED = ("sharding", "offload")
"""Searched as one categorical, since what can be offloaded depends on the sharding."""
DERIVED = "gradient_accumulation_steps"
SEPARATOR = " + "
_STRIDE = 2**25
"""More than any field's largest code, so that two of them make one number."""


@dataclass(frozen=True, eq=False)
class Parameter:
    """One dimension of a study."""

    fields: tuple[str, ...]
    choices: tuple[tuple[Value, ...], ...]
    """What the fields hold together, each combination once."""

    @property
    def name(self) -> str:
        return SEPARATOR.join(self.fields)

    @cached_property
    def values(self) -> tuple[ParameterValue, ...]:
        """What a study records for each choice, in the same order."""
        return tuple(_value(choice) for choice in self.choices)

    @cached_property
    def is_range(self) -> bool:
        """Whether the values are whole numbers without a gap, among which "between" has a meaning."""
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in self.values)
        return whole and bool((np.diff(self._keys) == 1).all())

    def has(self, columns: Columns) -> Mask:
        """Mask of the rows whose value is one of them, shape (n,)."""
        return np.isin(_keys(self.fields, columns), self._keys)

    def positions(self, columns: Columns) -> Codes:
        """Where in `values` each row's value stands, shape (n,)."""
        # Sorted by today's codes; the choices may have been written down when the codes were others.
        order = np.argsort(self._keys)
        found: Codes = order[np.searchsorted(self._keys, _keys(self.fields, columns), sorter=order)]
        return found

    @cached_property
    def _keys(self) -> Counts:
        coded = (map(int, map(encode, self.fields, choice)) for choice in self.choices)
        return np.array([_joined(codes) for codes in coded], dtype=np.int64)


@dataclass(frozen=True)
class Encoding:
    """The values that rows of a table have, and the parameters in which they differ."""

    dimensions: tuple[Parameter, ...]
    """Those with one value too."""

    @classmethod
    def of(cls, columns: Columns) -> "Encoding":
        groups = [(field,) for field in FIELDS if field not in (*JOINED, DERIVED)]
        return cls(tuple(_parameter(fields, columns) for fields in [*groups, JOINED]))

    @classmethod
    def from_dict(cls, saved: Mapping[str, Sequence[Sequence[Value]]]) -> "Encoding":
        """What `to_dict` wrote, with every choice in the place that it had."""
        return cls(
            tuple(
                Parameter(tuple(name.split(SEPARATOR)), tuple(map(tuple, choices)))
                for name, choices in saved.items()
            )
        )

    def to_dict(self) -> dict[str, list[list[Value]]]:
        """For JSON: dimension → its choices, in the values of its fields."""
        return {p.name: [list(choice) for choice in p.choices] for p in self.dimensions}

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        return tuple(dimension for dimension in self.dimensions if len(dimension.choices) > 1)

    def admits(self, columns: Columns) -> Mask:
        """Mask of the rows that it has a code for, shape (n,)."""
        mask: Mask = np.logical_and.reduce([dimension.has(columns) for dimension in self.dimensions])
        return mask

    def codes(self, columns: Columns) -> Codes:
        """Each row as positions in the parameters' values, shape (n, number of parameters)."""
        if not self.parameters:
            return np.zeros((len(columns), 0), dtype=np.int64)
        return np.stack([parameter.positions(columns) for parameter in self.parameters], axis=1)

    def params(self, config: TrainingConfig) -> dict[str, ParameterValue]:
        """What a study records for `config`."""
        row = self.codes(Columns.of([config]))[0]
        return {p.name: p.values[position] for p, position in zip(self.parameters, row, strict=True)}

    def row(self, params: Mapping[str, ParameterValue]) -> Codes | None:
        """`params` as positions, shape (number of parameters,); None where they are not of this space."""
        if set(params) != {p.name for p in self.parameters}:
            return None
        if any(params[p.name] not in p.values for p in self.parameters):
            return None
        return np.array([p.values.index(params[p.name]) for p in self.parameters], dtype=np.int64)


def _parameter(fields: tuple[str, ...], columns: Columns) -> Parameter:
    _, first = np.unique(_keys(fields, columns), return_index=True)
    examples = columns.select(first).configs()
    return Parameter(fields, tuple(tuple(getattr(config, field) for field in fields) for config in examples))


def _value(choice: tuple[Value, ...]) -> ParameterValue:
    if len(choice) == 1:
        return choice[0]
    return SEPARATOR.join(str(part) for part in choice if part != "none")


def _keys(fields: tuple[str, ...], columns: Columns) -> Counts:
    """One number per row for its values of `fields`, shape (n,)."""
    keys: Counts = _joined([columns.values[field].astype(np.int64) for field in fields])
    return keys


def _joined(codes: Iterable[Any]) -> Any:
    return reduce(lambda key, code: key * _STRIDE + code, codes)
