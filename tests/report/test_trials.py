"""Rows of trials, which say what the recommendation says of the same trial."""

from datetime import UTC, datetime

import pytest

from autotune.report.trials import TrialRow, trial_rows
from autotune.search.history import TrialRecord, TrialState
from autotune.storage.records import Measurement
from trials.contract.config import TrainingConfig
from trials.contract.messages import Estimate, ProbeResult
from trials.contract.outcome import Outcome, Phase

USABLE = 1000


def row(*probes: tuple[float, int], outcome: Outcome = Outcome.MEASURED) -> TrialRow:
    """Of a trial with so many tokens/s and bytes in its probes, of which the first came to `outcome`."""
    first = probes[0]
    trial = TrialRecord(
        7, TrialState.COMPLETE, TrainingConfig(), outcome, tokens_per_second=first[0], peak_bytes=first[1]
    )
    measurements = [
        Measurement(
            job_id=1, trial_number=7, repeat=repeat, key="k", config=TrainingConfig(),
            result=_result(speed, peak, Outcome.MEASURED if repeat else outcome),
            ceiling_bytes=USABLE, created_at=datetime.now(UTC),
        )
        for repeat, (speed, peak) in enumerate(probes)
    ]  # fmt: skip
    (found,) = trial_rows([trial], measurements, USABLE)
    return found


def _result(speed: float, peak: int, outcome: Outcome) -> ProbeResult:
    estimate = Estimate(median=speed, low=speed * 0.9, high=speed * 1.1) if speed else None
    return ProbeResult(
        probe_id="p", outcome=outcome, phase=Phase.DONE, tokens_per_second=estimate, peak_bytes=peak
    )


def test_one_that_is_confirmed_is_as_fast_as_its_confirmations():
    found = row((200, 500), (100, 600), (102, 550), (98, 540), outcome=Outcome.OUTPACED)
    assert found.tokens_per_second is not None
    assert found.overall_tokens_per_second is not None
    assert (found.tokens_per_second.median, found.overall_tokens_per_second.median) == (200, 100)
    assert (found.peak_bytes, found.overall_peak_bytes) == (500, 600)
    assert (found.outcome, found.is_confirmed, found.confirmations) == (Outcome.OUTPACED, True, 3)


def test_until_it_is_confirmed_its_own_probe_counts():
    found = row((200, 500), (100, 400))
    assert found.overall_tokens_per_second == found.tokens_per_second
    assert (found.overall_peak_bytes, found.is_confirmed) == (500, False)


@pytest.mark.parametrize("outcome", [Outcome.OUT_OF_MEMORY, Outcome.TIMED_OUT])
def test_what_did_not_run_has_no_figure(outcome: Outcome):
    assert row((0, 500), outcome=outcome).overall_tokens_per_second is None
