"""When a search has settled."""

from dataclasses import replace

from autotune.search.history import TrialRecord, TrialState
from autotune.search.stopping import LEAST_TRIALS, has_settled
from trials.contract.config import TrainingConfig
from trials.contract.outcome import Outcome


def trial(number: int, gain: float | None, outcome=Outcome.MEASURED, reused_from=None) -> TrialRecord:
    return TrialRecord(
        number,
        TrialState.COMPLETE,
        TrainingConfig(micro_batch_size=number + 1),
        outcome,
        100.0,
        peak_bytes=500,
        expected_gain=gain,
        reused_from=reused_from,
    )


def history(*latest: float | None, count: int = LEAST_TRIALS) -> list[TrialRecord]:
    gains = [0.5] * (count - len(latest)) + list(latest)
    return [trial(number, gain) for number, gain in enumerate(gains)]


def test_two_promises_in_a_row_must_be_small():
    assert has_settled(history(0.004), 0.004, 0.01)
    assert not has_settled(history(0.02), 0.004, 0.01)
    assert not has_settled(history(0.004), 0.02, 0.01)


def test_not_before_enough_was_seen():
    assert not has_settled(history(0.0, count=LEAST_TRIALS - 1), 0.0, 0.01)
    assert has_settled(history(0.0, count=LEAST_TRIALS), 0.0, 0.01)


def test_a_trial_that_does_not_count_is_no_sight():
    crashed = replace(trial(7, 0.0, Outcome.CRASHED), state=TrialState.FAIL)
    assert not has_settled([*history(0.0, count=LEAST_TRIALS - 1), crashed], 0.0, 0.01)


def test_what_was_taken_over_was_promised_elsewhere():
    reused = [trial(number, None, reused_from="earlier") for number in range(LEAST_TRIALS)]
    assert has_settled(reused, 0.0, 0.01)
    assert not has_settled(reused, 0.5, 0.01)


def test_nobody_expects_anything_or_nobody_asks():
    assert not has_settled(history(0.0), None, 0.01)
    assert not has_settled(history(0.0), 0.0, 0.0)
    assert not has_settled(history(None), 0.0, 0.01)
