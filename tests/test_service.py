"""The whole job on an in-memory executor: what is probed, recorded, resumed and recommended."""

import json

import pytest
from fakes import FakeExecutor
from small_job import REQUEST, changed, ignore, service_with

from autotune.errors import BadInput, ExecutionUnavailable, NameInUse, NothingMeasured
from autotune.jobs import JobStatus
from autotune.report.table import Table
from autotune.request import TuneRequest, specify
from autotune.search.confirmation import ROUNDS
from autotune.search.events import ProbeEnded, ProbeStarted
from autotune.search.loop import SearchLoop
from autotune.search.problem import probe_request, work_out
from autotune.search.stopping import Budget
from autotune.search.study import SearchStudy
from autotune.service import Service
from autotune.storage.engine import optuna_storage
from trials.contract.config import TrainingConfig
from trials.contract.constants import PROTOCOL_VERSION
from trials.contract.outcome import Outcome


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'jobs.db'}"


def test_a_job_ends_with_the_fastest_that_fits_confirmed(url):
    executor = FakeExecutor()
    with service_with(url, executor) as service:
        answer = service.tune(REQUEST, ignore)
    chosen = answer.recommendation
    assert chosen.config.precision == "bf16"
    assert chosen.config.micro_batch_size == 4  # 1,600 MiB of 2,048
    assert chosen.config.sharding == "ddp"
    assert chosen.evidence == "confirmed"
    assert chosen.peak_bytes <= chosen.ceiling_bytes * (1 - chosen.headroom)
    assert answer.status == JobStatus.FINISHED
    assert answer.spent.trials <= 8
    assert chosen.tokens_per_second.median == pytest.approx(1600)


def test_the_baseline_is_trial_zero_and_speed_is_quoted_against_it(url):
    own = TrainingConfig(micro_batch_size=1, precision="fp32", sequence_length=256, sharding="ddp")
    with service_with(url, executor := FakeExecutor()) as service:
        answer = service.tune(TuneRequest(**{**vars(REQUEST), "baseline": own}), ignore)
        rows = service.trials("job")
    assert executor.asked[0] == own
    assert rows[0].config == own
    assert answer.recommendation.baseline.config == own
    assert answer.recommendation.speedup.median == pytest.approx(1600 / 500)


def test_a_baseline_that_fails_leaves_a_reason_and_no_speedup(url):
    own = TrainingConfig(micro_batch_size=1, precision="fp32", sequence_length=256, sharding="ddp")
    script = FakeExecutor(lambda config, n: Outcome.NON_FINITE if config == own else Outcome.MEASURED)
    with service_with(url, script) as service:
        chosen = service.tune(TuneRequest(**{**vars(REQUEST), "baseline": own}), ignore).recommendation
    assert chosen.speedup is None
    assert chosen.baseline.tokens_per_second is None
    assert "non finite" in chosen.baseline.reason


def test_out_of_memory_never_ends_a_search(url):
    request = TuneRequest(**{**vars(REQUEST), "ceiling": "1200MiB", "sampler": "exhaustive"})
    with service_with(url, FakeExecutor()) as service:
        answer = service.tune(TuneRequest(**{**vars(request), "trials": 100}), ignore)
    assert answer.counts[Outcome.OUT_OF_MEMORY] > 0
    assert answer.recommendation.config.micro_batch_size == 2  # 1,000 MiB of the usable 1,140


def test_no_configuration_is_probed_twice_but_for_confirmation(url):
    with service_with(url, executor := FakeExecutor()) as service:
        trials = []
        service.tune(REQUEST, lambda e: trials.append(e) if isinstance(e, ProbeStarted) else None)
    firsts = [e.config for e in trials if e.repeat == 0]
    assert len(firsts) == len(set(firsts))
    assert len(executor.asked) == len(trials)


def test_crashes_are_tried_three_times_and_then_count(url):
    bad = TrainingConfig(micro_batch_size=1, precision="fp32", sequence_length=256, sharding="fsdp")
    script = FakeExecutor(lambda config, n: Outcome.CRASHED if config == bad else Outcome.MEASURED)
    request = TuneRequest(**{**vars(REQUEST), "trials": 100, "sampler": "exhaustive"})
    with service_with(url, script) as service:
        service.tune(request, ignore)
        outcomes = [row.outcome for row in service.trials("job") if row.config == bad]
    assert outcomes == [Outcome.CRASHED] * 3


def test_interrupted_probes_cost_no_trial(url):
    script = FakeExecutor(lambda config, n: Outcome.INTERRUPTED if n == 1 else Outcome.MEASURED)
    with service_with(url, script) as service:
        answer = service.tune(REQUEST, ignore)
    assert answer.spent.trials == 8
    assert answer.counts[Outcome.INTERRUPTED] == 8
    assert answer.recommendation.evidence == "confirmed"


def test_where_every_probe_fails_the_job_fails_with_the_reason(url):
    with service_with(url, FakeExecutor(lambda config, n: Outcome.INTERRUPTED)) as service:
        with pytest.raises(NothingMeasured, match="scripted interrupted"):
            service.tune(REQUEST, ignore)
        assert service.job("job").status == JobStatus.FAILED
        assert service.answer("job").recommendation is None


def test_an_interrupted_driver_pauses_and_the_budget_goes_on_where_it_was(url):
    def stop_after_three(event):
        if isinstance(event, ProbeEnded) and event.trial == 2:
            raise KeyboardInterrupt

    with service_with(url, first := FakeExecutor()) as service:
        with pytest.raises(KeyboardInterrupt):
            service.tune(REQUEST, stop_after_three)
        assert service.job("job").status == JobStatus.PAUSED
    with service_with(url, second := FakeExecutor()) as service:
        answer = service.run("job", ignore)
    assert answer.status == JobStatus.FINISHED
    assert answer.spent.trials == 8
    assert not set(first.asked) & set(second.asked[: 8 - len(first.asked)])


def test_resuming_a_finished_job_gives_its_answer_without_a_probe(url):
    with service_with(url, FakeExecutor()) as service:
        answer = service.tune(REQUEST, ignore)
    with service_with(url, untouched := FakeExecutor()) as service:
        assert service.run("job", ignore).recommendation == answer.recommendation
    assert untouched.asked == []


def test_what_was_committed_but_not_told_is_not_probed_again(url):
    """The driver dies between the two: the next one tells the study and goes on."""
    problem = work_out(specify(REQUEST))
    storage = optuna_storage(url)

    def loop(executor, commit, measured):
        study = SearchStudy(storage, "job", problem.candidates, problem.baseline, "forecast_order", 0)
        return study, SearchLoop(
            problem.candidates,
            problem.baseline,
            study,
            executor,
            Budget(2),
            request=lambda probe_id, config, plan: probe_request(problem, probe_id, config, plan),
            commit=commit,
            measured=measured,
            heartbeat=lambda: None,
            listener=ignore,
        )

    committed = []

    def commit_and_die(trial, repeat, config, result, reused_from):
        committed.append((trial, repeat, config, result))
        raise ZeroDivisionError

    _, dying = loop(FakeExecutor(), commit_and_die, [])
    with pytest.raises(ZeroDivisionError):
        dying.run()

    class Row:
        trial_number, repeat, config, result = committed[0]
        reused_from = None

    study, second = loop(executor := FakeExecutor(), lambda *row: None, [Row])
    second.run()
    first_probes = executor.asked[:1]
    assert committed[0][2] not in first_probes
    assert study.trials()[0].outcome == Outcome.MEASURED
    assert sum(t.config == committed[0][2] for t in study.trials()) == 1


def test_nothing_is_recorded_when_anything_is_wrong(url):
    def unavailable(layout, address):
        raise ExecutionUnavailable("no cluster")

    with Service(url, {"ray": unavailable, "local": unavailable}) as service:
        for changes, error in [
            ({}, ExecutionUnavailable),
            ({"sampler": "foo"}, BadInput),
            ({"space": "foo"}, BadInput),
            ({"model": "foo"}, BadInput),
            ({"gpus": "foo:1"}, BadInput),
            ({"ceiling": "a lot"}, BadInput),
            ({"ceiling": "1000GiB"}, BadInput),
            ({"minutes": -1.0}, BadInput),
            ({"name": "../etc"}, BadInput),
            ({"headroom": 1.0}, BadInput),
        ]:
            with pytest.raises(error):
                service.tune(TuneRequest(**{**vars(REQUEST), **changes}), ignore)
        assert service.jobs() == []


def test_a_name_in_use_is_refused_and_a_missing_one_is_made_up(url):
    def fresh(layout, address):
        return FakeExecutor()

    with Service(url, {"ray": fresh, "local": fresh}) as service:
        service.tune(REQUEST, ignore)
        with pytest.raises(NameInUse, match="resume"):
            service.tune(REQUEST, ignore)
        for number in (1, 2):
            answer = service.tune(TuneRequest(**{**vars(REQUEST), "name": None}), ignore)
            assert answer.job == f"llama-20m-{number}"


def test_a_space_for_one_process_fills_the_inventory_with_probes_at_once(url):
    layouts = []

    def remember(layout, address):
        layouts.append(layout)
        return FakeExecutor(num_slots=layout.num_slots)

    request = TuneRequest(
        model="llama-20m", gpus="cpu:4", space="single_gpu", ceiling="2GiB", trials=6,
        settings={"sequence_length": (64,), "micro_batch_size": (1, 2, 3), "precision": ("fp32", "bf16")},
    )  # fmt: skip
    with Service(url, {"ray": remember, "local": remember}) as service:
        answer = service.tune(request, ignore)
    assert (layouts[0].world_size, layouts[0].num_slots) == (1, 4)
    assert answer.spent.trials == 6


def test_the_global_batch_decides_the_accumulation(url):
    with service_with(url, FakeExecutor()) as service:
        request = TuneRequest(**{**vars(REQUEST), "global_batch_size": 24})
        chosen = service.tune(request, ignore).recommendation
    assert chosen.global_batch_size == 24
    assert chosen.config.gradient_accumulation_steps == 24 // (2 * chosen.config.micro_batch_size)


def test_several_lengths_give_one_row_each_and_the_longest_as_headline(url):
    settings = {**REQUEST.settings, "sequence_length": (64, 128)}
    with service_with(url, FakeExecutor()) as service:
        answer = service.tune(TuneRequest(**{**vars(REQUEST), "settings": settings, "trials": 60}), ignore)
    assert [row.config.sequence_length for row in answer.by_length] == [64, 128]
    assert answer.recommendation.config.sequence_length == 128


def test_the_answer_has_the_promised_shape(url):
    with service_with(url, FakeExecutor()) as service:
        data = json.loads(json.dumps(service.tune(REQUEST, ignore).to_dict()))
    assert data.keys() == {
        "job", "status", "reason", "recommendation", "by_length", "alternatives", "front", "counts", "spent",
    }  # fmt: skip
    assert data["recommendation"].keys() == {
        "config", "global_batch_size", "trial", "tokens_per_second", "peak_bytes", "ceiling_bytes",
        "headroom", "mfu", "evidence", "baseline", "speedup", "ties",
    }  # fmt: skip
    assert data["recommendation"]["mfu"] is None
    for row in data["alternatives"] + data["front"]:
        assert sum(row["memory"].values()) > 0
        assert row["evidence"] in ("measured", "confirmed")
    speeds = [row["tokens_per_second"]["median"] for row in data["front"]]
    peaks = [row["peak_bytes"] for row in data["front"]]
    assert speeds == sorted(speeds)
    assert peaks == sorted(peaks)


def test_exports_come_from_the_recommendation(url, tmp_path):
    with service_with(url, FakeExecutor()) as service:
        service.tune(REQUEST, ignore)
        paths = service.export("job", "torchrun", tmp_path / "out")
    assert "launch.sh" in {path.name for path in paths}
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert "micro_batch_size" in json.dumps(training)


def test_only_the_exports_that_take_the_winner_are_offered(url):
    settings = {**REQUEST.settings, "sharding": ("zero2",)}
    with service_with(url, FakeExecutor()) as service:
        answer = service.tune(TuneRequest(**{**vars(REQUEST), "settings": settings}), ignore)
        assert service.export_formats(answer) == ["deepspeed", "torchrun"]


def test_the_same_on_postgresql(fresh_postgresql_url):
    with service_with(fresh_postgresql_url, FakeExecutor()) as service:
        assert service.tune(REQUEST, ignore).recommendation.evidence == "confirmed"
        assert len(service.trials("job")) == 8


def test_a_second_job_probes_nothing_but_its_confirmation(url):
    with service_with(url, FakeExecutor()) as service:
        first = service.tune(REQUEST, ignore)
    with service_with(url, executor := FakeExecutor()) as service:
        second = service.tune(changed(name="again"), ignore)
        rows = service.trials("again")
        explained = service.explain("again")
    assert second.recommendation.config == first.recommendation.config
    assert second.recommendation.evidence == "confirmed"
    assert {row.reused_from for row in rows} == {"job"}
    confirmed = [row.config for row in rows if row.confirmations]
    assert sorted(map(str, executor.asked)) == sorted(map(str, confirmed * ROUNDS))
    assert explained.config == first.recommendation.config


def test_fresh_measures_again_what_is_known(url):
    with service_with(url, FakeExecutor()) as service:
        first = service.tune(REQUEST, ignore)
    with service_with(url, executor := FakeExecutor()) as service:
        service.tune(changed(name="again", fresh=True), ignore)
        rows = service.trials("again")
    assert all(row.reused_from is None for row in rows)
    assert len(executor.asked) >= first.spent.trials


def test_other_versions_are_measured_anew(url):
    with service_with(url, FakeExecutor()) as service:
        service.tune(REQUEST, ignore)
    with service_with(url, FakeExecutor(protocol=PROTOCOL_VERSION + 1)) as service:
        service.tune(changed(name="again"), ignore)
        assert all(row.reused_from is None for row in service.trials("again"))


def test_every_configuration_is_probed_as_often_as_is_asked(url, tmp_path):
    asked = changed(sampler="exhaustive", repeats=2, trials=100)
    with service_with(url, executor := FakeExecutor()) as service:
        service.tune(asked, ignore)
        rows = service.trials("job")
        service.write_table("job", tmp_path / "table.json")
        with pytest.raises(BadInput, match="--table"):
            service.write_table("job", tmp_path / "nowhere" / "table.json")
    table = Table.parse((tmp_path / "table.json").read_bytes())
    assert len(table.rows) == len(rows)
    for row in table.rows:
        assert len(row.tokens_per_second) == len(row.seconds) == len(row.step_s) >= 2
        assert executor.asked.count(row.config) == len(row.seconds)
    assert table.job.shape["num_layers"] > 0


def test_a_trial_races_against_the_best_and_a_confirmation_against_nobody(url):
    plans = {}

    class Watching(FakeExecutor):
        def submit(self, request):
            plans[request.probe_id] = request.measurement
            return super().submit(request)

    with service_with(url, Watching()) as service:
        service.tune(changed(trials=4, probe_seconds=2.0), ignore)
    assert plans["0.0"].step_to_beat_s is None  # the baseline is measured to its end
    assert plans["2.0"].step_to_beat_s is not None
    confirming = [plan for probe_id, plan in plans.items() if not probe_id.endswith(".0")]
    assert confirming
    for plan in confirming:
        assert plan.step_to_beat_s is None
        assert plan.min_steps > plans["0.0"].min_steps
        assert plan.max_measure_s == 3.0
