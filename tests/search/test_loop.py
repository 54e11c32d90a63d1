"""How much of a job's time is kept for confirmations."""

import optuna
import pytest
from fakes import FakeExecutor
from problems import make_problem

from autotune.search.history import TrialRecord
from autotune.search.loop import SearchLoop
from autotune.search.problem import probe_request
from autotune.search.stopping import Budget
from autotune.search.study import SearchStudy
from trials.contract.outcome import Outcome


class Timed(FakeExecutor):
    """Its first probe takes 100 s, the others 10, by what they say."""

    def _answer(self, probe):
        seconds = 100.0 if len(self.asked) == 1 else 10.0
        return super()._answer(probe).model_copy(update={"seconds": seconds})


def loop_of(executor: FakeExecutor, budget: Budget, monkeypatch: pytest.MonkeyPatch) -> SearchLoop:
    """On a clock that the probes move, by what they say they took."""
    slowest = {"micro_batch_size": 1, "precision": "fp32"}
    settings = {"micro_batch_size": [1, 2, 3], "sharding": ["ddp"]}
    problem = make_problem(settings=settings, baseline=slowest)
    study = SearchStudy(
        optuna.storages.InMemoryStorage(), "job", problem.candidates, problem.baseline, "exhaustive", 0
    )
    spent = [0.0]

    def commit(trial, repeat, config, result, reused_from):
        spent[0] += result.seconds

    monkeypatch.setattr("autotune.search.loop.time.monotonic", lambda: spent[0])
    return SearchLoop(
        problem.candidates,
        problem.baseline,
        study,
        executor,
        budget,
        request=lambda probe_id, config, plan: probe_request(problem, probe_id, config, plan),
        commit=commit,
        measured=[],
        heartbeat=lambda: None,
        listener=lambda event: None,
    )


def history_after(minutes: float, monkeypatch: pytest.MonkeyPatch, **script) -> list[TrialRecord]:
    loop = loop_of(Timed(**script), Budget(100, minutes * 60), monkeypatch)
    loop.run()
    return list(loop.standing().history)


def test_a_cold_start_costs_no_trial_of_the_search(monkeypatch):
    """100 s of the first and 90 of three rounds of three leave 110 s of five minutes: eleven more probes."""
    assert len(history_after(5, monkeypatch)) == 1 + 11


def test_a_short_search_keeps_two_thirds_of_its_time(monkeypatch):
    """By the first probe's 100 s the confirmations of it alone would take 300 of the 156 s."""
    assert len(history_after(2.6, monkeypatch)) == 2


def test_where_nothing_can_be_confirmed_no_time_is_kept(monkeypatch):
    def out_of_memory(config, attempt):
        return Outcome.OUT_OF_MEMORY

    assert len(history_after(3, monkeypatch, outcome_of=out_of_memory)) == 1 + 8


def test_gpu_hours_bound_the_time_of_the_probes(monkeypatch):
    """200 s: 100 of the first probe, and a third kept for confirmations at most."""
    loop = loop_of(Timed(), Budget(100, probe_seconds=200), monkeypatch)
    reason = loop.run()
    assert "GPU-hour" in reason
    assert len(loop.standing().history) == 1 + 4
