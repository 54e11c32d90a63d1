"""What others do, restated as samplers that can be replayed beside ours (docs/search.md describes them).

Both begin from the job's baseline and keep what they do not tune as it is there. When they are through, a
random candidate is taken, so that they can be followed further.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from autotune.search import samplers
from autotune.search.candidates import Candidates, Indices
from autotune.search.history import TrialRecord
from autotune.search.samplers import Maker, StrategySampler
from autotune.search.strategies import Choice, Random
from search_spaces.columns import FIELDS, Columns
from trials.contract.outcome import VERDICTS, Outcome

SIZE, STEPS = "micro_batch_size", "gradient_accumulation_steps"
STAGES = ("ddp", "zero1", "zero2", "fsdp", "zero3", "hsdp")
"""Sharding, from the one that shards least."""
CHECKPOINTING = ("none", "selective", "full")

Rows = NDArray[np.bool_]


class HandSearch:
    """A person who doubles the micro-batch until memory runs out, then checkpoints, then shards more."""

    tuned = (SIZE, STEPS, "activation_checkpointing", "sharding", "offload")

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def choose(self, candidates: Candidates, remaining: Indices, history: Sequence[TrialRecord]) -> Choice:
        sizes = candidates.columns.count(SIZE)
        open_ = _mask(candidates, remaining) & _like_baseline(candidates, history, self.tuned)
        open_ &= ((sizes & (sizes - 1)) == 0) & ~_larger_than_what_failed(candidates, history)
        if not open_.any():
            return self._random.choose(candidates, remaining, history)
        rows = np.flatnonzero(open_)
        keys = (
            sizes[rows],
            _rank(candidates.columns, "activation_checkpointing", CHECKPOINTING)[rows],
            _rank(candidates.columns, "sharding", STAGES)[rows],
        )
        return Choice(int(rows[np.lexsort(keys)[0]]))


class DeepSpeedOrder:
    """DeepSpeed's autotuner: stage after stage, in each the largest micro-batch by doubling and one between.

    It stops at the stage that is slower than the one before (`Autotuner.tune_space` in autotuner.py).
    """

    tuned = (SIZE, STEPS, "sharding", "offload")

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def choose(self, candidates: Candidates, remaining: Indices, history: Sequence[TrialRecord]) -> Choice:
        columns, open_ = candidates.columns, _mask(candidates, remaining)
        like = _like_baseline(candidates, history, self.tuned)
        before = 0.0
        for stage in STAGES:
            of_stage = like & columns.is_in("sharding", [stage]) & columns.is_in("offload", ["none"])
            if not of_stage.any():
                continue
            if (row := self._next(candidates, history, of_stage, open_)) is not None:
                return Choice(row)
            best = max((t.tokens_per_second for t in history if t.config.sharding == stage), default=0.0)
            if best < before:
                break
            before = best
        return self._random.choose(candidates, remaining, history)

    def _next(
        self, candidates: Candidates, history: Sequence[TrialRecord], of_stage: Rows, open_: Rows
    ) -> int | None:
        sizes = candidates.columns.count(SIZE)
        fitting = of_stage & ~_larger_than_what_failed(candidates, history)
        doubled = np.flatnonzero(fitting & open_ & ((sizes & (sizes - 1)) == 0))
        if len(doubled):
            return int(doubled[np.argmin(sizes[doubled])])
        tried = sizes[fitting & ~open_]
        between = np.flatnonzero(fitting & open_ & (sizes > tried.max(initial=0)))
        if len(between) and not ((tried & (tried - 1)) != 0).any():
            return int(between[np.argsort(sizes[between])[len(between) // 2]])
        return None


def _mask(candidates: Candidates, rows: Indices) -> Rows:
    mask = np.zeros(len(candidates), dtype=np.bool_)
    mask[rows] = True
    return mask


def _like_baseline(candidates: Candidates, history: Sequence[TrialRecord], tuned: Sequence[str]) -> Rows:
    """The rows that differ from the first trial in what is tuned alone."""
    baseline = Columns.of([history[0].config])
    like = np.ones(len(candidates), dtype=np.bool_)
    for name in FIELDS:
        if name not in tuned:
            like &= candidates.columns.values[name] == baseline.values[name][0]
    return like


def _larger_than_what_failed(candidates: Candidates, history: Sequence[TrialRecord]) -> Rows:
    """The rows with at least the micro-batch of one that ran out of memory, and all else as there."""
    larger = np.zeros(len(candidates), dtype=np.bool_)
    for trial in history:
        if trial.outcome is None or (
            trial.outcome != Outcome.OUT_OF_MEMORY and VERDICTS[trial.outcome].has_speed
        ):
            continue
        failed = Columns.of([trial.config])
        same = candidates.columns.count(SIZE) >= trial.config.micro_batch_size
        for name in FIELDS:
            if name not in (SIZE, STEPS):
                same &= candidates.columns.values[name] == failed.values[name][0]
        larger |= same
    return larger


def _rank(columns: Columns, field: str, order: Sequence[str]) -> NDArray[np.int64]:
    rank = np.full(len(columns), len(order), dtype=np.int64)
    for position, value in enumerate(order):
        rank[columns.is_in(field, [value])] = position
    return rank


PEERS: Mapping[str, Maker] = MappingProxyType(
    {
        "deepspeed_order": lambda c, e, seed, h, known: StrategySampler(c, e, DeepSpeedOrder(seed), h),
        "hand_search": lambda c, e, seed, h, known: StrategySampler(c, e, HandSearch(seed), h),
    }
)


def register() -> None:
    """Make them known beside ours, in this process."""
    samplers.SAMPLERS = MappingProxyType({**samplers.SAMPLERS, **PEERS})
