"""The trials of a job as `autotune trials` lists them."""

from collections.abc import Iterable, Mapping, Sequence

from autotune.search.confirmation import Contender, gather_contenders
from autotune.search.history import TrialRecord, TrialState
from autotune.storage.records import Measurement
from trials.contract.config import TrainingConfig
from trials.contract.message import Message
from trials.contract.messages import Estimate, ProbeResult
from trials.contract.outcome import Outcome


class TrialRow(Message):
    number: int
    state: TrialState
    outcome: Outcome | None
    """Of its own probe, as the study has it."""
    config: TrainingConfig
    tokens_per_second: Estimate | None
    """Of its own probe; None where there is no figure."""
    peak_bytes: int | None
    """Of its own probe."""
    reason: str | None
    seconds: float
    reused_from: str | None
    """The job that measured it, where this one did not have to."""
    expected_gain: float | None
    """What the best candidate promised when it was proposed, as a share of the best so far."""
    confirmations: int
    """Further probes of it that are committed."""
    overall_tokens_per_second: Estimate | None = None
    """Over all its probes, as the recommendation has it."""
    overall_peak_bytes: int | None = None
    """The largest of all its probes."""
    is_confirmed: bool = False
    """Whether enough further probes came to a figure, all within what is usable."""


def trial_rows(
    trials: Sequence[TrialRecord], measurements: Iterable[Measurement], usable_bytes: int
) -> list[TrialRow]:
    results = by_trial(measurements)
    contenders = {c.trial: c for c in gather_contenders(trials, results, usable_bytes)}
    return [_row(trial, results.get(trial.number, {}), contenders.get(trial.number)) for trial in trials]


def by_trial(measurements: Iterable[Measurement]) -> dict[int, dict[int, ProbeResult]]:
    """Trial → repeat → what was measured."""
    results: dict[int, dict[int, ProbeResult]] = {}
    for measurement in measurements:
        results.setdefault(measurement.trial_number, {})[measurement.repeat] = measurement.result
    return results


def _row(trial: TrialRecord, results: Mapping[int, ProbeResult], contender: Contender | None) -> TrialRow:
    own = results.get(0)
    peaks = [result.peak_bytes for result in results.values() if result.peak_bytes is not None]
    return TrialRow(
        number=trial.number,
        state=trial.state,
        outcome=trial.outcome,
        config=trial.config,
        tokens_per_second=None if own is None else own.tokens_per_second,
        peak_bytes=trial.peak_bytes,
        reason=trial.reason,
        seconds=trial.seconds,
        reused_from=trial.reused_from,
        expected_gain=trial.expected_gain,
        confirmations=sum(repeat > 0 for repeat in results),
        overall_tokens_per_second=contender.tokens_per_second if contender and contender.has_speed else None,
        overall_peak_bytes=max(peaks, default=trial.peak_bytes),
        is_confirmed=contender is not None and contender.is_confirmed,
    )
