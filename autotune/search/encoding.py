"""Between configurations and the parameters that a study, and its dashboard, show for them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.columns import FIELDS, Columns, Counts
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
    keys: Counts
    """The distinct codes that occur, ascending, shape (k,)."""
    values: tuple[ParameterValue, ...]
    """What they stand for, in the same order."""

    @property
    def name(self) -> str:
        return SEPARATOR.join(self.fields)

    @property
    def is_range(self) -> bool:
        """Whether the values are whole numbers without a gap, among which "between" has a meaning."""
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in self.values)
        return whole and bool((np.diff(self.keys) == 1).all())

    def positions(self, columns: Columns) -> Codes:
        """Where in `values` each row's value stands, shape (n,)."""
        return np.searchsorted(self.keys, _keys(self.fields, columns))


@dataclass(frozen=True)
class Encoding:
    """The parameters in which the rows of a table differ."""

    parameters: tuple[Parameter, ...]

    @classmethod
    def of(cls, columns: Columns) -> "Encoding":
        groups = [(field,) for field in FIELDS if field not in (*JOINED, DERIVED)]
        parameters = [_parameter(fields, columns) for fields in [*groups, JOINED]]
        return cls(tuple(parameter for parameter in parameters if len(parameter.values) > 1))

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
    keys, first = np.unique(_keys(fields, columns), return_index=True)
    examples = columns.select(first).configs()
    return Parameter(fields, keys, tuple(_value(fields, config) for config in examples))


def _value(fields: tuple[str, ...], config: TrainingConfig) -> ParameterValue:
    parts = [getattr(config, field) for field in fields]
    if len(parts) == 1:
        value: ParameterValue = parts[0]
        return value
    return SEPARATOR.join(str(part) for part in parts if part != "none")


def _keys(fields: tuple[str, ...], columns: Columns) -> Counts:
    keys = np.zeros(len(columns), dtype=np.int64)
    for field in fields:
        keys = keys * _STRIDE + columns.values[field].astype(np.int64)
    return keys
