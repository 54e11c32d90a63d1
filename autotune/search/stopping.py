"""When a search has had enough."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from autotune.jobs import JobSpec
from autotune.search.history import TrialRecord
from trials.contract.messages import ProbeResult
from trials.contract.outcome import VERDICTS

LEAST_TRIALS = 8
"""That a search makes before it may say that nothing is left to find."""
MAX_FAILURES_IN_A_ROW = 9
"""Probes that end without counting, one after the other: three configurations that crash three times
each, or three that each of the three engines refuses."""


@dataclass(frozen=True)
class Budget:
    """How much may be spent."""

    trials: int
    """Trials that count."""
    seconds: float = math.inf
    """Wall time, by all drivers of the job together."""
    probe_seconds: float = math.inf
    """Wall time of all probes together; what GPU-hours come to, each probe having all GPUs of the job."""
    stop_below: float = 0.0
    """Share of the best so far that a candidate has to promise; 0: the search goes on whatever it does."""

    @classmethod
    def of(cls, spec: JobSpec) -> Self:
        """A job's."""
        return cls(
            trials=spec.trials,
            seconds=(spec.minutes or math.inf) * 60,
            probe_seconds=(spec.gpu_hours or math.inf) * 3600 / spec.world_size,
            stop_below=spec.stop_below,
        )

    def trials_left(self, history: Sequence[TrialRecord]) -> int:
        """Trials that may still begin, those under way taken off."""
        return self.trials - sum(trial.counts for trial in history)


def has_settled(history: Sequence[TrialRecord], expected_gain: float | None, stop_below: float) -> bool:
    """Whether nothing left promises more than a share of the best so far, and neither did it before the
    latest trial, for one such promise may be wrong.

    Not before a search has seen enough to know what to doubt. What was taken over from another job was
    promised there.
    """
    spent = [trial for trial in history if trial.counts]
    if expected_gain is None or not stop_below or len(spent) < LEAST_TRIALS:
        return False
    latest = spent[-1]
    before = 0.0 if latest.reused_from is not None else latest.expected_gain
    return before is not None and max(before, expected_gain) < stop_below


def counted(number: float, noun: str) -> str:
    """`1 trial`, `24 trials`, `1.5 minutes`."""
    return f"{number:,.12g} {noun}" + ("" if number == 1 else "s")


def why_hopeless(ended: Sequence[ProbeResult]) -> str | None:
    """A sentence when so many probes in a row came to nothing that more would too; else None.

    `ended` are the results that came to this driver: what earlier ones met may have been mended since.
    """
    last = ended[-MAX_FAILURES_IN_A_ROW:]
    if len(last) < MAX_FAILURES_IN_A_ROW or any(VERDICTS[result.outcome].counts for result in last):
        return None
    return f"the last {len(last)} probes all failed, the latest with: {last[-1].reason or last[-1].outcome}"
