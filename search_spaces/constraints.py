"""Which configurations are legal: by the rules, and by the table of capabilities."""

import functools
import operator
from dataclasses import dataclass, replace

import numpy as np

from search_spaces.columns import Columns, Counts, Mask
from search_spaces.rules import PROBED, STRUCTURE, Constraint, Facts, replicas
from trials.contract.capabilities import Refusal, refusals
from trials.contract.config import TrainingConfig

MICROBATCHES_PER_STAGE = 4
"""Accumulation per pipeline stage where no global batch decides it: keeps the bubble under a quarter."""


@dataclass(frozen=True)
class Rejection:
    """Configurations that are illegal for one reason."""

    code: str
    reason: str
    count: int
    fields: tuple[str, ...] = ()
    """Other values of these may be legal."""


def sift(columns: Columns, facts: Facts) -> tuple[Mask, tuple[Rejection, ...]]:
    """The mask of the legal rows, and why the others are not, each counted under the first rule it breaks."""
    legal = np.ones(len(columns), dtype=np.bool_)
    rejections = []
    for constraint in constraints(facts):
        broken = constraint.is_broken(columns, facts) & legal
        if count := int(np.count_nonzero(broken)):
            reason = constraint.reason(columns.select(broken), facts)
            rejections.append(Rejection(constraint.code, reason, count, constraint.fields))
            legal &= ~broken
    return legal, tuple(rejections)


def why_illegal(config: TrainingConfig, facts: Facts) -> str | None:
    """The first rule that `config` breaks, in words, or None where it is legal."""
    _, rejections = sift(Columns.of([config]), facts)
    return rejections[0].reason if rejections else None


def why_unprobed(config: TrainingConfig, facts: Facts) -> str | None:
    """Why no probe of `config`, which is legal to forecast, can run yet; None where one can."""
    return why_illegal(config, replace(facts, to_probe=True))


def accumulation_steps(columns: Columns, facts: Facts) -> Counts:
    """The derived `gradient_accumulation_steps`, shape (n,).

    With a global batch the count that comes nearest; without one 1, or 4 per pipeline stage. Never less
    than the number of stages.
    """
    stages = columns.count("pipeline_parallel_size")
    if facts.global_batch_size is None:
        return np.where(stages > 1, MICROBATCHES_PER_STAGE * stages, 1)
    sequences = np.maximum(columns.count("micro_batch_size") * replicas(columns, facts), 1)
    nearest: Counts = (2 * facts.global_batch_size + sequences) // (2 * sequences)
    return np.maximum(nearest, stages)


def constraints(facts: Facts) -> tuple[Constraint, ...]:
    """Every rule that holds under `facts`, in the order in which configurations are counted."""
    capabilities = refusals(facts.features, to_probe=facts.to_probe)
    return (*STRUCTURE, *(PROBED if facts.to_probe else ()), *map(_of_refusal, capabilities))


def _of_refusal(row: Refusal) -> Constraint:
    def is_broken(columns: Columns, _facts: Facts) -> Mask:
        matches = [columns.is_in(field, values) for field, values in row.values.items()]
        matches += [columns.count(size) > 1 for size in row.parallel]
        return functools.reduce(operator.and_, matches)

    fields = (*row.values, *row.parallel)
    return Constraint("+".join(fields), fields, is_broken, lambda _columns, _facts: row.reason)
