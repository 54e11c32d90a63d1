"""Configurations as levels of factors: what they have in common, counted level by level.

Factors have few levels however many configurations there are. So whatever is a sum over the factors of a
configuration, or over pairs of them, is a sum of entries of small tables; and merging a few factors into one
group, whose levels are the combinations of theirs, leaves few entries to add.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.forecast.formats import Floats, Indices
from search_spaces.columns import FIELDS, Columns, Counts

DERIVED = "gradient_accumulation_steps"
SMOOTH = ("micro_batch_size", "sequence_length")
"""Factors whose neighbours resemble each other, by the logarithm of their size; the others are categories."""
CATEGORIES = tuple(field for field in FIELDS if field not in (*SMOOTH, DERIVED))
MODEL, WORLD = "model", "world_size"
"""Factors that are the same for all configurations of a job."""
NUM_FACTORS = len(SMOOTH) + len(CATEGORIES) + 2
SMOOTH_SHARE = 0.7
"""Of the kernel of a smooth factor; the rest is whether both sizes are divisible by 8, 4, 2 or odd."""
LEAST_EIGENVALUE = 1e-9
"""Of the likeness of a smooth factor's levels, as a share of the largest: below it there is only rounding."""
MOST_COMBINATIONS = 256
"""Levels of a group; tables of pairs of levels still fit a core's cache."""


@dataclass(frozen=True)
class Factor:
    """One factor of n configurations."""

    name: str
    levels: Counts
    """The values that occur, ascending."""
    codes: Indices
    """Each configuration's place among them, shape (n,), or (1,) where all have the same."""

    @classmethod
    def of(cls, name: str, values: NDArray[Any]) -> "Factor":
        if len(values) and values.strides == (0,):
            values = values[:1]
        levels, codes = np.unique(values.astype(np.int64), return_inverse=True)
        return cls(name, levels, codes.astype(np.intp))

    @cached_property
    def basis(self) -> Floats:
        """Brings likeness to the levels to features of which it is the product, (levels, features)."""
        if self.name not in SMOOTH:
            return np.eye(len(self.levels))
        values, vectors = np.linalg.eigh(self.kernel(self))
        kept = values > LEAST_EIGENVALUE * values[-1]
        basis: Floats = vectors[:, kept] / np.sqrt(values[kept])
        return basis

    def kernel(self, other: "Factor") -> Floats:
        """Likeness of the levels of the two, 0 to 1, shape (levels, other's levels)."""
        mine, others = self.levels[:, None], other.levels[None, :]
        if self.name not in SMOOTH:
            equal: Floats = np.equal(mine, others).astype(np.float64)
            return equal
        distance = np.log2(mine) - np.log2(others)
        aligned = np.gcd(mine, 8) == np.gcd(others, 8)
        likeness: Floats = SMOOTH_SHARE * np.exp(-(distance**2) / 2) + (1 - SMOOTH_SHARE) * aligned
        return likeness


@dataclass(frozen=True, eq=False)
class Group:
    """Factors as one, whose levels are the combinations of theirs."""

    factors: tuple[Factor, ...]

    @cached_property
    def codes(self) -> Indices:
        """Each configuration's combination, shape (n,), or (1,) where all have the same."""
        sizes = [len(factor.levels) for factor in self.factors]
        codes = np.broadcast_arrays(*(factor.codes for factor in self.factors))
        return np.ravel_multi_index(codes, sizes).astype(np.intp)


@dataclass(frozen=True, eq=False)
class Factors:
    """All factors of n configurations."""

    count: int
    factors: tuple[Factor, ...]

    @classmethod
    def of(cls, columns: Columns, models: Sequence[int] = (0,), worlds: Sequence[int] = (1,)) -> "Factors":
        """`models` and `worlds` are those of each row, or one for all; a model is any number that is its."""
        jobs = {MODEL: np.asarray(models), WORLD: np.asarray(worlds)}
        values = {**{field: columns.values[field] for field in (*SMOOTH, *CATEGORIES)}, **jobs}
        return cls(len(columns), tuple(Factor.of(name, array) for name, array in values.items()))

    def __len__(self) -> int:
        return self.count

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All factors, as many in each group as have few enough combinations."""
        merged: list[list[Factor]] = [[]]
        for factor in self.factors:
            combinations = math.prod(len(one.levels) for one in merged[-1]) * len(factor.levels)
            if merged[-1] and combinations > MOST_COMBINATIONS:
                merged.append([])
            merged[-1].append(factor)
        return tuple(Group(tuple(factors)) for factors in merged)

    def features(self, others: "Factors") -> list[Floats]:
        """Of each group what its combinations add to the features of a row, (combinations, features).

        A row's features are 1, and of each factor those by which the levels of `others` tell its level from
        others: their product over two rows is 1 and the sum of their factors' likenesses.
        """
        theirs = {factor.name: factor for factor in others.factors}
        counts = [theirs[factor.name].basis.shape[1] for factor in self.factors]
        ends = np.cumsum(counts) + 1
        start_of = {f.name: end - count for f, end, count in zip(self.factors, ends, counts, strict=True)}
        tables = []
        for group in self.groups:
            # What all have in common is shared out among the groups, of which a row has one combination each.
            table: Floats = np.zeros((1, ends[-1]))
            table[0, 0] = 1 / len(self.groups)
            for factor in group.factors:
                other = theirs[factor.name]
                of_levels = np.zeros((len(factor.levels), ends[-1]))
                start = start_of[factor.name]
                of_levels[:, start : start + other.basis.shape[1]] = factor.kernel(other) @ other.basis
                table = (table[:, None] + of_levels[None]).reshape(-1, ends[-1])
            tables.append(table)
        return tables

    def unexplained(self, tables: Sequence[Floats]) -> list[Floats]:
        """Of each group, for the `features` of its combinations, how much of its factors' likeness to
        themselves they leave out, since no level that was seen has a part in it; shape (combinations,).
        """
        return [
            np.maximum(len(group.factors) - (table[:, 1:] ** 2).sum(axis=1), 0.0)
            for group, table in zip(self.groups, tables, strict=True)
        ]

    def summed(self, tables: Sequence[Floats]) -> Floats:
        """Of each row the sum over groups of its combination's entry in the group's table."""
        total = np.zeros((self.count, *tables[0].shape[1:]))
        for group, table in zip(self.groups, tables, strict=True):
            total += table[group.codes]
        return total

    def squared(self, tables: Sequence[Floats]) -> Floats:
        """Of each row the squared length of the sum that `summed` gives of tables (combinations, m)."""
        total = np.zeros(self.count)
        pairs = list(zip(self.groups, tables, strict=True))
        for index, (group, table) in enumerate(pairs):
            total += (table**2).sum(axis=1)[group.codes]
            for other, other_table in pairs[:index]:
                total += 2 * (table @ other_table.T)[group.codes, other.codes]
        return total

    @cached_property
    def distinct(self) -> tuple[Indices, Indices]:
        """A row of each configuration that occurs, and the place among those of each row's, shape (n,)."""
        _, first, places = np.unique(self._numbers, return_index=True, return_inverse=True)
        return first, places

    def matches(self, others: "Factors") -> tuple[Indices, Indices]:
        """The rows that equal one of `others`, which are distinct, and which one each equals."""
        numbers, known = np.zeros(len(others), dtype=np.int64), np.ones(len(others), dtype=np.bool_)
        for mine, other in zip(self.factors, others.factors, strict=True):
            place = np.searchsorted(mine.levels, other.levels).clip(max=len(mine.levels) - 1)
            known &= (mine.levels[place] == other.levels)[other.codes]
            numbers = numbers * len(mine.levels) + place[other.codes]
        places = np.flatnonzero(known)
        places = places[np.argsort(numbers[places])]
        rows = np.flatnonzero(np.isin(self._numbers, numbers[places]))
        return rows, places[np.searchsorted(numbers[places], self._numbers[rows])]

    @cached_property
    def _numbers(self) -> Counts:
        """A number for each row, the same for rows that equal."""
        numbers = np.zeros(self.count, dtype=np.int64)
        for factor in self.factors:
            numbers = numbers * len(factor.levels) + factor.codes
        return numbers

    def select(self, rows: Indices) -> "Factors":
        def chosen(factor: Factor) -> Factor:
            return Factor(factor.name, factor.levels, np.broadcast_to(factor.codes, self.count)[rows])

        return Factors(len(rows), tuple(map(chosen, self.factors)))
