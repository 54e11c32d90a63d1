"""When a search has had enough."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.search.history import TrialRecord
from trials.contract.messages import ProbeResult
from trials.contract.outcome import VERDICTS

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

    def trials_left(self, history: Sequence[TrialRecord]) -> int:
        """Trials that may still begin, those under way taken off."""
        return self.trials - sum(trial.counts for trial in history)


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
