from autotune.search.history import TrialRecord, TrialState, is_last_crash, to_ask_again
from autotune.search.stopping import MAX_FAILURES_IN_A_ROW, Budget, why_hopeless
from trials.contract.config import TrainingConfig
from trials.contract.outcome import VERDICTS, Outcome

A, B = TrainingConfig(micro_batch_size=1), TrainingConfig(micro_batch_size=2)


def record(number, config, outcome, *, is_last=False):
    if outcome is None:
        return TrialRecord(number, TrialState.RUNNING, config)
    state = TrialState.COMPLETE if VERDICTS[outcome].completes or is_last else TrialState.FAIL
    return TrialRecord(number, state, config, outcome, reason="why")


def test_interrupted_is_asked_again_without_limit():
    history = [record(n, A, Outcome.INTERRUPTED) for n in range(20)]
    assert to_ask_again(history) == [A]


def test_crashed_is_asked_twice_more_and_then_counts():
    history = []
    for number in range(3):
        is_last = is_last_crash(Outcome.CRASHED, history)
        history.append(record(number, A, Outcome.CRASHED, is_last=is_last))
        assert to_ask_again(history) == ([A] if number < 2 else [])
    assert [t.counts for t in history] == [False, False, True]


def test_what_was_measured_or_is_running_is_not_asked_again():
    history = [
        record(0, A, Outcome.INTERRUPTED),
        record(1, B, Outcome.MEASURED),
        record(2, A, None),
    ]
    assert to_ask_again(history) == []


def test_invalid_and_out_of_memory_are_not_asked_again():
    assert to_ask_again([record(0, A, Outcome.INVALID), record(1, B, Outcome.OUT_OF_MEMORY)]) == []


def test_the_budget_counts_what_counts_and_what_runs():
    history = [
        record(0, A, Outcome.MEASURED),
        record(1, B, Outcome.OUT_OF_MEMORY),
        record(2, A, Outcome.CRASHED),
        record(3, A, Outcome.INTERRUPTED),
        record(4, A, Outcome.INVALID),
        record(5, A, None),
    ]
    assert Budget(10).trials_left(history) == 7


def test_failures_in_a_row_end_a_search_and_one_result_between_them_does_not():
    failures = [record(n, A, Outcome.INTERRUPTED) for n in range(MAX_FAILURES_IN_A_ROW)]
    assert "why" in (why_hopeless(failures) or "")
    assert why_hopeless(failures[1:]) is None
    assert why_hopeless([*failures[:4], record(9, B, Outcome.MEASURED), *failures[5:]]) is None
