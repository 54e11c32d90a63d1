"""Few configurations that together have every pair of options which some legal configuration has."""

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from trials.contract.capabilities import Feature, Refusal, refusal, refusals
from trials.contract.config import TrainingConfig, choices

Fields = Mapping[str, Any]
Pair = frozenset[tuple[str, Any]]
NOTHING = object()
"""No value of any field."""
COMPILED = {"compile": True, "optimizer": "adamw_8bit"}
"""Values that take twenty seconds of torch.compile each time, so they have tests of their own."""
OF_SEVERAL_RANKS = ("pipeline_schedule",)
"""Choices that are read only where ranks share a replica; `test_parallel.py` trains those."""


def probed_choices(features: frozenset[Feature]) -> dict[str, list[Any]]:
    """Field → its values that no refusal rules out by themselves, for the fields that are choices."""
    ruled_out = {
        (field, value)
        for row in refusals(features)
        if len(row.values) == 1 and not row.parallel
        for field, values in row.values.items()
        for value in values
    }
    return {
        field: [value for value in known if (field, value) not in ruled_out]
        for field in TrainingConfig.model_fields
        if (known := choices(field)) and field not in OF_SEVERAL_RANKS
    }


def legal(
    features: frozenset[Feature], without: Mapping[str, Any] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """Every combination of choices that is not refused, but for the values that are not to be among them."""
    options = {
        field: [value for value in values if value != without.get(field, NOTHING)]
        for field, values in probed_choices(features).items()
    }
    rows = [row for row in refusals(features) if not row.parallel]
    found: list[dict[str, Any]] = [{}]
    for field, values in options.items():
        found = [{**fields, field: value} for fields in found for value in values]
        decided = [row for row in rows if field in row.values and set(row.values) <= set(found[0])]
        found = [fields for fields in found if not any(_matches(row, fields) for row in decided)]
    return found


def beside(size: str, features: frozenset[Feature], without: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each choice that can be probed where two ranks share a replica by `size`, one at a time.

    Where nothing but the choice is said, all is by default, but for a sharding that the choice needs.
    """
    found: list[dict[str, Any]] = []
    for field, values in probed_choices(features).items():
        for value in values:
            tried = ({field: value}, {field: value, "sharding": "fsdp"})
            legal = (one for one in tried if refusal(TrainingConfig(**{size: 2}, **one), features) is None)
            if value != without.get(field, NOTHING) and (fields := next(legal, None)) is not None:
                found.append(fields)
    return found


def _matches(row: Refusal, fields: Fields) -> bool:
    return all(fields[field] in values for field, values in row.values.items())


def pairs(fields: Fields) -> set[Pair]:
    return {frozenset(pair) for pair in itertools.combinations(fields.items(), 2)}


def covering(configurations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A part of `configurations` that has all their pairs: each adds the most of those still missing."""
    fields = list(configurations[0])
    codes = np.stack(
        [np.unique([str(one[field]) for one in configurations], return_inverse=True)[1] for field in fields]
    )
    width = int(codes.max()) + 1
    both = [
        (index * width + codes[a]) * width + codes[b]
        for index, (a, b) in enumerate(itertools.combinations(range(len(fields)), 2))
    ]
    numbers, of_each = np.unique(np.stack(both, axis=1), return_inverse=True)
    of_each = of_each.reshape(len(configurations), len(both))
    missing = np.ones(len(numbers), dtype=np.bool_)
    chosen = []
    while missing.any():
        best = int(missing[of_each].sum(axis=1).argmax())
        chosen.append(configurations[best])
        missing[of_each[best]] = False
    return chosen
