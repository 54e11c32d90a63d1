"""What other jobs have measured that holds for this one too."""

from collections.abc import Iterable
from dataclasses import dataclass

from autotune.execution.executor import Executor
from autotune.jobs import Job
from autotune.search.keys import context_key
from autotune.storage.records import Measurement
from autotune.storage.repository import Repository
from trials.contract.config import TrainingConfig
from trials.contract.messages import ProbeResult
from trials.contract.outcome import VERDICTS, Outcome


@dataclass(frozen=True)
class Known:
    """A result that another job has paid for."""

    result: ProbeResult
    job: str
    """Its name."""


def known_to(job: Job, repository: Repository, executor: Executor) -> dict[TrainingConfig, Known]:
    """What a job need not probe, in the order in which it takes it over.

    Nothing where it is to measure afresh or for a table, where a factory may have changed unseen, and where
    the executor cannot tell its versions. Raises StorageUnavailable.
    """
    spec = job.spec
    changes_unseen = spec.model.factory is not None and spec.model.factory_version is None
    if spec.fresh or spec.repeats > 1 or changes_unseen or not repository.has_measurements(job):
        return {}
    versions = executor.versions()
    if versions is None:
        return {}
    found = repository.probes_like(context_key(spec, versions), besides=job)
    return known(found, spec.ceiling_bytes, spec.usable_bytes)


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
