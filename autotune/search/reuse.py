"""What other jobs have measured that holds for this one too."""

from collections.abc import Iterable
from dataclasses import dataclass

from autotune.storage.records import Measurement
from trials.contract.config import TrainingConfig
from trials.contract.messages import ProbeResult
from trials.contract.outcome import VERDICTS, Outcome


@dataclass(frozen=True)
class Known:
    """A result that another job has paid for."""

    result: ProbeResult
    job: str
    """Its name."""


def known(
    found: Iterable[tuple[str, Measurement]], ceiling_bytes: int, usable_bytes: int
) -> dict[TrainingConfig, Known]:
    """What holds under a ceiling, the fastest that fit first.

    `found`: own probes of trials with the name of their job, the latest first; their keys are those of this
    job's probes, so that they differ from them in the ceiling at most. Of several of one configuration the
    latest counts.
    """
    holding: dict[TrainingConfig, Known] = {}
    for job, measurement in found:
        if measurement.config not in holding and holds(measurement, ceiling_bytes):
            holding[measurement.config] = Known(measurement.result, job)
    return dict(sorted(holding.items(), key=lambda item: -_speed(item[1].result, usable_bytes)))


def holds(measurement: Measurement, ceiling_bytes: int) -> bool:
    """Whether a probe under `ceiling_bytes` would come out as this one did under its own."""
    result, outcome = measurement.result, measurement.result.outcome
    same = measurement.ceiling_bytes == ceiling_bytes
    if outcome == Outcome.OUT_OF_MEMORY:
        return ceiling_bytes <= measurement.ceiling_bytes
    if outcome == Outcome.MEASURED:
        retries = sum(peaks.allocator_retries for peaks in result.memory)
        return same or ((result.peak_bytes or 0) <= ceiling_bytes and not retries)
    if outcome == Outcome.OUTPACED:  # by what fitted under its own ceiling
        return same
    return VERDICTS[outcome].completes


def _speed(result: ProbeResult, usable_bytes: int) -> float:
    """Tokens/s of what was measured to its end and fits; less than any of what was not."""
    if result.outcome != Outcome.MEASURED or (result.peak_bytes or 0) > usable_bytes:
        return -1.0
    return result.tokens_per_second.median if result.tokens_per_second else -1.0
