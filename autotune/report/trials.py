"""The trials of a job as `autotune trials` lists them."""

from collections.abc import Sequence

from autotune.search.history import TrialRecord, TrialState
from autotune.storage.records import Measurement
from trials.contract.config import TrainingConfig
from trials.contract.message import Message
from trials.contract.messages import Estimate
from trials.contract.outcome import Outcome


class TrialRow(Message):
    number: int
    state: TrialState
    outcome: Outcome | None
    config: TrainingConfig
    tokens_per_second: Estimate | None
    """Of its own probe; None where there is no figure."""
    peak_bytes: int | None
    reason: str | None
    seconds: float
    reused_from: str | None
    """The job that measured it, where this one did not have to."""
    expected_gain: float | None
    """What the best candidate promised when it was proposed, as a share of the best so far."""
    confirmations: int
    """Further probes of it that are committed."""


def trial_rows(trials: Sequence[TrialRecord], measurements: Sequence[Measurement]) -> list[TrialRow]:
    own = {m.trial_number: m.result for m in measurements if m.repeat == 0}
    repeats = [m.trial_number for m in measurements if m.repeat > 0]
    return [
        TrialRow(
            number=trial.number,
            state=trial.state,
            outcome=trial.outcome,
            config=trial.config,
            tokens_per_second=own[trial.number].tokens_per_second if trial.number in own else None,
            peak_bytes=trial.peak_bytes,
            reason=trial.reason,
            seconds=trial.seconds,
            reused_from=trial.reused_from,
            expected_gain=trial.expected_gain,
            confirmations=repeats.count(trial.number),
        )
        for trial in trials
    ]
