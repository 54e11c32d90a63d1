"""Who is probed next, as pure choices among the candidates that remain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import ndtr

from autotune.search.candidates import Candidates, Indices
from autotune.search.history import TrialRecord
from trials.contract.outcome import VERDICTS, Outcome

MEMORY_ERROR = 0.10
"""Standard deviation of log(measured / forecast peak) once the common factor is known."""


@dataclass(frozen=True)
class Choice:
    index: int
    """Of the candidate."""
    expected_gain: float | None = None
    """By what share of the best so far the best of what is left is expected to beat it; None where nothing
    is expected."""


class Strategy(Protocol):
    def choose(self, candidates: Candidates, remaining: Indices, history: Sequence[TrialRecord]) -> Choice:
        """One of `remaining`, which are indices of candidates and never empty."""


class Exhaustive:
    """Every candidate in the order of the space."""

    def choose(self, candidates: Candidates, remaining: Indices, history: Sequence[TrialRecord]) -> Choice:
        return Choice(int(remaining[0]))


class Random:
    """Any candidate, each with the same probability."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def choose(self, candidates: Candidates, remaining: Indices, history: Sequence[TrialRecord]) -> Choice:
        # Seeded by how far the search has come, so that a resumed one goes on as it would have.
        return Choice(int(np.random.default_rng((self._seed, len(history))).choice(remaining)))


class ForecastOrder:
    """The largest forecast tokens/s times probability of fitting, memory corrected by what was measured."""

    def choose(self, candidates: Candidates, remaining: Indices, history: Sequence[TrialRecord]) -> Choice:
        log_peak = np.log(candidates.forecast.device_bytes[remaining]) + _memory_bias(candidates, history)
        fits = ndtr((np.log(candidates.usable_bytes) - log_peak) / MEMORY_ERROR)
        return Choice(int(remaining[np.argmax(candidates.forecast.tokens_per_second[remaining] * fits)]))


def _memory_bias(candidates: Candidates, history: Sequence[TrialRecord]) -> float:
    """Median of log(measured / forecast peak).

    An out-of-memory is a peak of at least the ceiling: it counts where the forecast was lower.
    """
    residuals = []
    for trial in history:
        index = candidates.index(trial.config)
        if index is None or trial.outcome is None:
            continue
        forecast = candidates.forecast.device_bytes[index]
        if trial.outcome == Outcome.OUT_OF_MEMORY:
            if forecast < candidates.ceiling_bytes:
                residuals.append(np.log(candidates.ceiling_bytes / forecast))
        elif trial.peak_bytes and VERDICTS[trial.outcome].has_speed:  # else it had not got that far
            residuals.append(np.log(trial.peak_bytes / forecast))
    return float(np.median(residuals)) if residuals else 0.0
