"""`Measuring`: how long each probe of a job measures, and what it races against."""

from collections.abc import Iterable
from dataclasses import dataclass

from autotune.search.history import TrialRecord
from trials.contract.config import TrainingConfig
from trials.contract.messages import MeasurementPlan
from trials.contract.outcome import Outcome

LONGER = 1.5
"""Times the seconds of a trial's own probe that a confirmation measures at most."""


@dataclass(frozen=True)
class Measuring:
    """Plans of the probes of one job."""

    world_size: int = 1
    probe_seconds: float = MeasurementPlan().max_measure_s
    """Of measured steps, after which a trial's own probe begins no further one."""
    repeats: int = 1
    """Probes of every trial with a figure."""

    def own(self, config: TrainingConfig, best: TrialRecord | None) -> MeasurementPlan:
        """Of a trial's own probe: it races against the `best` so far, unless a table is wanted."""
        if best is None or self.repeats > 1:
            return self.again()
        tokens = config.tokens_per_step(self.world_size)
        return MeasurementPlan(
            max_measure_s=self.probe_seconds, step_to_beat_s=tokens / best.tokens_per_second
        )

    def again(self) -> MeasurementPlan:
        """Of what is measured to its end."""
        return MeasurementPlan(max_measure_s=self.probe_seconds)

    def confirming(self) -> MeasurementPlan:
        """Longer, so that the allocator has come to rest and more steps say what is quoted."""
        usual = MeasurementPlan()
        return MeasurementPlan(
            min_warm_up_steps=usual.min_warm_up_steps + 1,
            max_warm_up_steps=usual.max_warm_up_steps + 2,
            min_steps=10,
            max_steps=60,
            max_measure_s=LONGER * self.probe_seconds,
        )


def fastest(history: Iterable[TrialRecord], sequence_length: int, usable_bytes: int) -> TrialRecord | None:
    """The best trial that was measured to its end with such sequences, and fits."""
    found = [
        trial
        for trial in history
        if trial.outcome == Outcome.MEASURED
        and trial.config.sequence_length == sequence_length
        and (trial.peak_bytes or 0) <= usable_bytes
    ]
    return max(found, key=lambda trial: trial.tokens_per_second, default=None)
