"""Few configurations that together have every pair of options which some legal configuration has."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from trials.contract.capabilities import Feature, refusal, refusals
from trials.contract.config import TrainingConfig, choices

Fields = Mapping[str, Any]
Pair = frozenset[tuple[str, Any]]


def probed_choices(features: frozenset[Feature]) -> dict[str, list[Any]]:
    """Field → its values that no refusal rules out by themselves, for the fields that are choices."""
    ruled_out = {
        (field, value)
        for row in refusals(features)
        if len(row.values) == 1
        for field, values in row.values.items()
        for value in values
    }
    return {
        field: [value for value in known if (field, value) not in ruled_out]
        for field in TrainingConfig.model_fields
        if (known := choices(field))
    }


def legal(features: frozenset[Feature]) -> list[dict[str, Any]]:
    """Every combination of choices that is not refused."""
    options = probed_choices(features)
    combinations = (
        dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())
    )
    return [fields for fields in combinations if refusal(TrainingConfig(**fields), features) is None]


def pairs(fields: Fields) -> set[Pair]:
    return {frozenset(pair) for pair in itertools.combinations(fields.items(), 2)}


def covering(configurations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A part of `configurations` that has all their pairs: each adds the most of those still missing."""
    missing = set().union(*map(pairs, configurations))
    chosen = []
    while missing:
        chosen.append(max(configurations, key=lambda fields: len(pairs(fields) & missing)))
        missing -= pairs(chosen[-1])
    return chosen
