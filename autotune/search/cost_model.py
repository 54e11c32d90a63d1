"""`CostModel`: the forecast as a prior, and what probes teach of it, to choose the next one.

Residuals of log tokens/s and of log bytes against the forecast are learned factor by factor
(`forecast/residuals.py`). Proposed is the candidate with the largest expected improvement over the best that
was measured, times its probability of fitting, for the seconds of a probe; what may well run out of memory
waits until more is known.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from autotune.forecast.calibration import Calibration
from autotune.forecast.factors import Factors
from autotune.forecast.formats import Floats, Indices
from autotune.forecast.residuals import MEMORY, SPEED, Prior, Residuals, posterior
from autotune.search.candidates import Candidates
from autotune.search.history import TrialRecord, TrialState
from autotune.search.strategies import Choice
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig
from trials.contract.outcome import VERDICTS, Outcome

LEAST_RISK, MOST_RISK = 0.05, 0.4
"""Bounds of the probability of running out of memory that a proposal may have."""
RISKS_AT_FIRST, RISKS_PER_PROBE = 0.3, 0.1
"""Probes that may run out of memory: so many at the start, and so many more for each that was made."""
OUTPACED_NOISE = 0.05
"""Standard deviation of the logarithm of a figure that was cut short."""
PROBE_STEPS = 8
"""Optimizer steps of a probe, warm-up included."""
LEAST_OVERHEAD_S, USUAL_OVERHEAD_S = 0.5, 5.0
"""Of a probe beside its steps: at least, and before any was made."""
RUNS = Prior(common=0.05, levels=(0.3, 0.6, 1.0), own=(0.05, 0.1, 0.3), expected=0.5, noise=0.05)
"""Of whether a configuration trains, as 0, or does not, as −1."""
LEAST_HOPE = 0.02
"""That one trains, whatever was seen of others."""
LARGEST_LOG = 20.0
"""Of a ratio, so that none overflows."""
COST_POWER = 0.5
"""Of the seconds that a probe takes, against what it promises; where nothing fits yet they do not count."""


@dataclass(frozen=True)
class Knowledge:
    """What a job knows before its first probe, and how its measurements are to be read."""

    calibration: Calibration = field(default_factory=Calibration)
    """Of earlier jobs on the same hardware."""
    model: str = ""
    """Digest of the job's model."""
    world_size: int = 1
    blur_bytes: int = 0
    """Standard deviation of a measured peak about the tensors in it."""


@dataclass(frozen=True, eq=False)
class Beliefs:
    """What is expected of n candidates, arrays of shape (n,)."""

    log_speed: Floats
    """Mean of log tokens/s."""
    speed_deviation: Floats
    fits: Floats
    """Probability that the peak is within what is usable."""
    out_of_memory: Floats
    """Probability that it is beyond the ceiling."""
    runs: Floats
    """Probability that it trains at all, in time and with finite losses."""


@dataclass(frozen=True, eq=False)
class _Observed:
    """Residuals of some configurations, with what they are residuals of."""

    configs: list[TrainingConfig]
    models: list[int]
    worlds: list[int]
    values: list[float]
    noise: list[float]
    censored: list[bool]

    @classmethod
    def nothing(cls) -> "_Observed":
        return cls([], [], [], [], [], [])

    def add(self, config: TrainingConfig, world: int, value: float, noise: float, *, at_least: bool) -> None:
        self.configs.append(config)
        self.models.append(0)
        self.worlds.append(world)
        self.values.append(value)
        self.noise.append(noise)
        self.censored.append(at_least)


class CostModel:
    """A Strategy; see the module."""

    def __init__(self, candidates: Candidates, knowledge: Knowledge) -> None:
        forecast = candidates.forecast
        outside = [seen.outside_bytes for seen in knowledge.calibration.observations]
        reserved = forecast.reserved_bytes.astype(np.float64)
        fixed = forecast.parts["fixed"] + (float(np.median(outside)) if outside else 0.0)
        self._candidates = candidates
        self._knowledge = knowledge
        self._factors = Factors.of(candidates.columns, [0], [knowledge.world_size])
        self._log_speed = np.log(forecast.tokens_per_second)
        self._tokens_per_step = forecast.tokens_per_second * forecast.step_s
        self._lengths = candidates.columns.count("sequence_length")
        self._reserved, self._fixed = reserved, fixed
        self._log_usable = np.log(np.maximum(candidates.usable_bytes - fixed, 1) / reserved)
        self._log_ceiling = np.log(np.maximum(candidates.ceiling_bytes - fixed, 1) / reserved)

    def choose(self, candidates: Candidates, remaining: Indices, history: Sequence[TrialRecord]) -> Choice:
        assert candidates is self._candidates, "a model is of the candidates that it was made for"
        running = self._rows_of([t for t in history if t.state == TrialState.RUNNING])
        beliefs = self.beliefs(history)
        gain, is_new = self._gain(history, beliefs)
        worth = gain * beliefs.fits * beliefs.runs
        allowed = np.zeros(len(candidates), dtype=np.bool_)
        allowed[remaining] = True
        risky = beliefs.out_of_memory > self._risk(history, beliefs.out_of_memory[running].sum())
        if not (allowed & ~risky).any():  # then the least risky one
            risky = beliefs.out_of_memory > beliefs.out_of_memory[remaining].min()
        allowed &= ~risky
        cost = np.where(is_new, 1.0, self._seconds(history, beliefs) ** COST_POWER)
        merit = np.where(allowed, worth / cost, -1.0)
        # What is too risky now promises all the same, and may be tried once more is known.
        return Choice(int(np.argmax(merit)), float(worth[remaining].max()))

    def beliefs(self, history: Sequence[TrialRecord]) -> Beliefs:
        """Of all candidates; probes that run are taken to come out as expected."""
        speed, memory = self._observed(history)
        running = self._rows_of([t for t in history if t.state == TrialState.RUNNING])
        of_speed, of_memory = self._posterior(SPEED, speed), self._posterior(MEMORY, memory)
        if len(running):
            for row in running:
                config = self._candidates.config(int(row))
                world = self._knowledge.world_size
                speed.add(config, world, float(of_speed.mean[row]), SPEED.noise, at_least=False)
                memory.add(config, world, float(of_memory.mean[row]), MEMORY.noise, at_least=False)
            of_speed, of_memory = self._posterior(SPEED, speed), self._posterior(MEMORY, memory)
        return Beliefs(
            log_speed=self._log_speed + of_speed.mean,
            speed_deviation=of_speed.deviation,
            fits=ndtr((self._log_usable - of_memory.mean) / of_memory.deviation),
            out_of_memory=ndtr((of_memory.mean - self._log_ceiling) / of_memory.deviation),
            runs=self._runs(history),
        )

    def _runs(self, history: Sequence[TrialRecord]) -> Floats:
        """By what ran and what did not: 0 and −1, told apart factor by factor as residuals are."""
        ended = [t for t in history if t.outcome is not None and VERDICTS[t.outcome].completes]
        failed = [_trains(t.outcome) for t in ended if t.outcome is not None].count(False)
        if not failed:
            return np.ones(1)
        observed = _Observed.nothing()
        for trial in ended:
            value = 0.0 if trial.outcome is not None and _trains(trial.outcome) else -1.0
            observed.add(trial.config, self._knowledge.world_size, value, RUNS.noise, at_least=False)
        runs: Floats = np.clip(1 + self._posterior(RUNS, observed).mean, LEAST_HOPE, 1.0)
        return runs

    def _observed(self, history: Sequence[TrialRecord]) -> tuple[_Observed, _Observed]:
        """Residuals of log tokens/s and of log bytes."""
        speed, memory = self._learned("speed"), self._learned("memory")
        world, blur_bytes = self._knowledge.world_size, self._knowledge.blur_bytes
        for trial in history:
            row = self._candidates.index(trial.config)
            if row is None or trial.outcome is None:
                continue
            if trial.outcome == Outcome.OUT_OF_MEMORY:
                memory.add(trial.config, world, float(self._log_ceiling[row]), MEMORY.noise, at_least=True)
            elif VERDICTS[trial.outcome].has_speed and trial.tokens_per_second > 0 and trial.peak_bytes:
                least = OUTPACED_NOISE if trial.outcome == Outcome.OUTPACED else SPEED.noise
                residual = math.log(trial.tokens_per_second) - float(self._log_speed[row])
                speed.add(trial.config, world, residual, max(least, trial.spread), at_least=False)
                reserved = float(self._reserved[row])
                held = max(trial.peak_bytes - float(self._fixed[row]), 1.0)
                noise = math.hypot(MEMORY.noise, blur_bytes / reserved)
                memory.add(trial.config, world, math.log(held / reserved), noise, at_least=False)
        return speed, memory

    def _learned(self, name: str) -> _Observed:
        """What earlier jobs measured; the job's own model is number 0."""
        observations = self._knowledge.calibration.observations
        numbers = {self._knowledge.model: 0}
        return _Observed(
            configs=[o.config for o in observations],
            models=[numbers.setdefault(o.model, len(numbers)) for o in observations],
            worlds=[o.world_size for o in observations],
            values=[getattr(o, name) for o in observations],
            noise=[getattr(o, f"{name}_noise") for o in observations],
            censored=[False] * len(observations),
        )

    def _posterior(self, prior: Prior, observed: _Observed) -> Residuals:
        return posterior(
            prior,
            Factors.of(Columns.of(observed.configs), observed.models, observed.worlds),
            np.array(observed.values),
            self._factors,
            np.array(observed.noise),
            np.array(observed.censored, dtype=np.bool_),
        )

    def _gain(self, history: Sequence[TrialRecord], beliefs: Beliefs) -> tuple[Floats, NDArray[np.bool_]]:
        """Expected improvement over the best that fits at the same length, as a share of it.

        At a length where nothing has been found to fit yet, which the mask tells, what the speed promises
        of the best there.
        """
        gain, is_new = np.zeros(len(self._lengths)), np.zeros(len(self._lengths), dtype=np.bool_)
        for length in np.unique(self._lengths):
            rows = np.flatnonzero(self._lengths == length)
            mean, deviation = beliefs.log_speed[rows], beliefs.speed_deviation[rows]
            best = self._best(history, beliefs, int(length))
            if best is None:
                gain[rows], is_new[rows] = np.exp(mean - mean.max()), True
            else:
                gain[rows] = expected_improvement(mean - best, deviation)
        return gain, is_new

    def _best(self, history: Sequence[TrialRecord], beliefs: Beliefs, length: int) -> float | None:
        """Log tokens/s of the fastest trial that fits, as all of them together say it."""
        found = [
            math.log(trial.tokens_per_second) if row is None else float(beliefs.log_speed[row])
            for trial in history
            if trial.config.sequence_length == length
            and trial.outcome == Outcome.MEASURED
            and trial.tokens_per_second > 0
            and (trial.peak_bytes or 0) <= self._candidates.usable_bytes
            for row in [self._candidates.index(trial.config)]
        ]
        return max(found, default=None)

    def _risk(self, history: Sequence[TrialRecord], running: float) -> float:
        """Probability of running out of memory that may be taken now; `running` probes are expected to."""
        ended = [trial for trial in history if trial.outcome is not None]
        failed = sum(trial.outcome == Outcome.OUT_OF_MEMORY for trial in ended)
        left = RISKS_AT_FIRST + RISKS_PER_PROBE * (len(ended) + 1) - failed - running
        return max(LEAST_RISK, min(MOST_RISK, left))

    def _seconds(self, history: Sequence[TrialRecord], beliefs: Beliefs) -> Floats:
        """What a probe of each candidate will take."""
        steps = PROBE_STEPS * self._tokens_per_step / np.exp(beliefs.log_speed)
        beside = [
            trial.seconds - steps[row]
            for trial in history
            if trial.outcome == Outcome.MEASURED and (row := self._candidates.index(trial.config)) is not None
        ]
        overhead = max(LEAST_OVERHEAD_S, float(np.median(beside))) if beside else USUAL_OVERHEAD_S
        seconds: Floats = overhead + steps
        return seconds

    def _rows_of(self, trials: Sequence[TrialRecord]) -> NDArray[np.int64]:
        rows = [self._candidates.index(trial.config) for trial in trials]
        return np.array([row for row in rows if row is not None], dtype=np.int64)


def _trains(outcome: Outcome) -> bool:
    return VERDICTS[outcome].has_speed or outcome == Outcome.OUT_OF_MEMORY


def expected_improvement(ahead: Floats, deviation: Floats) -> Floats:
    """E[max(0, eˣ − 1)] for x normal with mean `ahead`: what a ratio with that logarithm promises above 1."""
    at_zero = ahead / deviation
    ratio = np.exp(np.minimum(ahead + deviation**2 / 2, LARGEST_LOG))
    gain: Floats = np.maximum(ratio * ndtr(at_zero + deviation) - ndtr(at_zero), 0.0)
    return gain
