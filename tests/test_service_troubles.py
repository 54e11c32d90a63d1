"""The whole job when things go wrong around it: machines, drivers, compilers, worlds that do not fit."""

import itertools
import re
from concurrent.futures import Future
from pathlib import Path

import optuna
import pytest
from fakes import MIB, FakeExecutor
from small_job import REQUEST, changed, ignore, service_with

from autotune.errors import (
    BadInput,
    ExecutionUnavailable,
    NameInUse,
    NoSuchJob,
    NotHere,
    NothingFits,
    NothingMeasured,
)
from autotune.jobs import JobStatus
from autotune.request import TuneRequest
from autotune.service import Service
from trials.contract.config import TrainingConfig
from trials.contract.outcome import Outcome


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'jobs.db'}"


class Dying(FakeExecutor):
    """Its driver dies as it hands over a probe."""

    def submit(self, request):
        raise SystemExit


def test_a_machine_that_breaks_takes_no_measurement_back(url):
    count = itertools.count()
    breaking = FakeExecutor(lambda config, n: Outcome.MEASURED if next(count) < 4 else Outcome.CRASHED)
    with service_with(url, breaking) as service:
        answer = service.tune(REQUEST, ignore)
    assert answer.recommendation.evidence == "measured"
    assert "the last 9 probes all failed" in answer.reason


def test_a_crash_while_confirming_is_tried_again(url):
    asked = itertools.count()
    once = FakeExecutor(lambda config, n: Outcome.CRASHED if next(asked) == 9 else Outcome.MEASURED)
    with service_with(url, once) as service:
        chosen = service.tune(REQUEST, ignore).recommendation
    assert chosen.evidence == "confirmed"
    assert chosen.speedup is not None


def test_drivers_that_died_are_no_reason_to_give_up(url):
    for attempt in range(10):
        with service_with(url, Dying()) as service, pytest.raises(SystemExit):
            service.run("job", ignore) if attempt else service.tune(REQUEST, ignore)
    with service_with(url, FakeExecutor()) as service:
        assert service.run("job", ignore).recommendation.evidence == "confirmed"


def test_a_failed_job_can_be_taken_up_once_its_machine_is_mended(url):
    crashing = FakeExecutor(lambda config, n: Outcome.CRASHED)
    with service_with(url, crashing) as service, pytest.raises(NothingMeasured):
        service.tune(REQUEST, ignore)
    with service_with(url, FakeExecutor()) as service:
        assert service.run("job", ignore).recommendation is not None


def test_an_engine_that_refuses_everything_leaves_the_budget_to_the_others(url):
    def no_compiler(config, n):
        return Outcome.INVALID if config.sharding.startswith("zero") else Outcome.MEASURED

    request = TuneRequest(model="llama-20m", gpus="cpu:2", name="job", space="cpu", trials=14, ceiling="6GiB")
    with service_with(url, FakeExecutor(no_compiler)) as service:
        answer = service.tune(request, ignore)
    assert answer.counts[Outcome.MEASURED] == 14
    assert answer.counts[Outcome.INVALID] == 3


@pytest.mark.parametrize("ceiling", ["690MiB", "730MiB"])
def test_a_ceiling_that_only_probes_show_to_be_too_low_is_nothing_fits(url, ceiling):
    """At 690 MiB all run out of memory; at 730 they run, with less than the headroom to spare."""
    settings = {**REQUEST.settings, "micro_batch_size": (1,)}
    with service_with(url, FakeExecutor()) as service, pytest.raises(NothingFits, match="bytes") as error:
        service.tune(changed(ceiling=ceiling, settings=settings), ignore)
    (suggestion,) = re.findall(r"\((\d+) bytes", str(error.value))
    assert int(suggestion) > int(ceiling.removesuffix("MiB")) * MIB
    with service_with(url, FakeExecutor()) as service:
        again = changed(name="again", ceiling=suggestion, settings=settings)
        assert service.tune(again, ignore).recommendation is not None


def test_a_ceiling_that_is_quoted_has_room_for_every_repeat(url):
    """The first probe fits; its confirmations take more than is usable, and once more than there is."""

    class Growing(FakeExecutor):
        def _answer(self, probe):
            result = super()._answer(probe)
            growth = 200 * MIB * (probe.attempt - 1)
            return result.model_copy(update={"peak_bytes": result.peak_bytes + growth})

    settings = {"micro_batch_size": (1,), "precision": ("bf16",), "sharding": ("ddp",)}
    with service_with(url, Growing()) as service, pytest.raises(NothingFits) as error:
        service.tune(changed(ceiling="800MiB", settings=settings), ignore)
    (suggestion,) = re.findall(r"(\d+) bytes", str(error.value))
    assert int(suggestion) * 0.95 >= 900 * MIB


def test_a_winner_that_fails_its_confirmation_needs_no_higher_ceiling(url):
    settings = {"micro_batch_size": (1,), "precision": ("bf16",), "sharding": ("ddp",)}
    diverging = FakeExecutor(lambda config, n: Outcome.MEASURED if n == 1 else Outcome.NON_FINITE)
    with service_with(url, diverging) as service, pytest.raises(NothingMeasured, match="scripted non_finite"):
        service.tune(changed(settings=settings), ignore)


def test_where_nothing_could_be_measured_the_last_cause_is_named(url):
    crashing, words = (
        FakeExecutor(lambda config, n: Outcome.CRASHED),
        r"3 crashed\): scripted crashed; `autotune",
    )
    with service_with(url, crashing) as service, pytest.raises(NothingMeasured, match=words):
        service.tune(changed(trials=1), ignore)


def test_a_configuration_that_crashes_three_times_spends_a_trial_and_still_says_crashed(url):
    crashing = FakeExecutor(lambda config, n: Outcome.CRASHED)
    with service_with(url, crashing) as service:
        with pytest.raises(NothingMeasured):
            service.tune(changed(trials=2), ignore)
        rows, answer = service.trials("job"), service.answer("job")
    assert [row.outcome for row in rows] == [Outcome.CRASHED] * 6
    assert [row.state for row in rows] == 2 * ["FAIL", "FAIL", "COMPLETE"]
    assert {row.reason for row in rows} == {"scripted crashed"}
    assert answer.counts == {outcome: 6 if outcome == Outcome.CRASHED else 0 for outcome in Outcome}
    assert answer.spent.trials == 2


def test_a_baseline_that_crashes_says_so(url):
    own = TrainingConfig(micro_batch_size=1, precision="fp32", sequence_length=256, sharding="ddp")
    script = FakeExecutor(lambda config, n: Outcome.CRASHED if config == own else Outcome.MEASURED)
    with service_with(url, script) as service:
        chosen = service.tune(changed(baseline=own), ignore).recommendation
    assert chosen.baseline.reason == "crashed: scripted crashed"


def test_how_far_a_probe_came_that_could_not_run_is_no_peak(url):
    outcomes = [Outcome.INVALID, Outcome.INTERRUPTED, Outcome.CRASHED, Outcome.OUT_OF_MEMORY]
    script = FakeExecutor(lambda config, n: outcomes[config.micro_batch_size - 1])
    with service_with(url, script) as service:
        with pytest.raises((NothingFits, NothingMeasured)):
            service.tune(changed(sampler="exhaustive"), ignore)
        rows = service.trials("job")
    assert {row.outcome for row in rows if row.peak_bytes} <= {Outcome.OUT_OF_MEMORY}
    assert {row.outcome for row in rows} > {Outcome.OUT_OF_MEMORY}


@pytest.mark.parametrize("recorded", [True, False])
def test_a_study_of_somebody_elses_is_left_alone(url, recorded):
    """Be there a record of ours in the database already or not."""
    if recorded:
        with service_with(url, FakeExecutor()) as service:
            service.tune(changed(name="ours", trials=1), ignore)
    theirs = optuna.create_study(storage=url, study_name="job", direction="minimize")
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    optuna.create_study(storage=url, study_name="llama-20m-1")
    before = theirs.trials
    with service_with(url, executor := FakeExecutor()) as service:
        with pytest.raises(NameInUse, match="Optuna study named 'job'"):
            service.tune(REQUEST, ignore)
        assert "job" not in {job.name for job in service.jobs()}
        assert executor.asked == []
        assert service.tune(changed(name=None, trials=1), ignore).job == "llama-20m-2"
    again = optuna.load_study(storage=url, study_name="job")
    assert (again.trials, again.user_attrs, again.direction.name) == (before, {}, "MINIMIZE")


@pytest.mark.parametrize(("address", "error"), [("127.0.0.1:1", BadInput), (None, ExecutionUnavailable)])
def test_a_cluster_that_was_named_and_is_not_there_is_bad_input(url, tmp_path, address, error):
    def unreachable(layout, address):
        raise ExecutionUnavailable("Ray cannot be reached")

    with Service(url, {"ray": unreachable}) as service:
        with pytest.raises(error, match="Ray cannot be reached"):
            service.tune(changed(gpus="H100:2", ray_address=address), ignore)
        assert service.jobs() == []
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_has_gone_when_a_job_is_resumed_is_the_machines(url):
    with service_with(url, Dying()) as service, pytest.raises(SystemExit):
        service.tune(changed(gpus="H100:2", ray_address="127.0.0.1:1"), ignore)

    def unreachable(layout, address):
        raise ExecutionUnavailable("Ray cannot be reached")

    with Service(url, {"ray": unreachable}) as service, pytest.raises(ExecutionUnavailable):
        service.run("job", ignore)


def test_device_hours_of_a_cpu_are_no_gpu_hours(url):
    with service_with(url, FakeExecutor()) as service:
        assert service.tune(REQUEST, ignore).spent.gpu_hours == 0.0
    with service_with(url, FakeExecutor(device_name="NVIDIA H100 80GB HBM3")) as service:
        on_gpus = TuneRequest(model="llama-20m", gpus="H100:2", name="gpus", trials=2)
        assert service.tune(on_gpus, ignore).spent.gpu_hours > 0


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda service: service.job("job"), NoSuchJob),
        (lambda service: service.answer("job"), NoSuchJob),
        (lambda service: service.trials("job"), NoSuchJob),
        (lambda service: service.run("job", ignore), NoSuchJob),
        (lambda service: service.export("job", "torchrun", Path("out")), NoSuchJob),
        (lambda service: service.tune(changed(sampler="nosuch"), ignore), BadInput),
        (lambda service: service.tune(changed(ceiling="10MiB"), ignore), NothingFits),
        (lambda service: service.tune(changed(settings={"attention": ("flash",)}), ignore), BadInput),
    ],
)
def test_what_comes_to_no_job_creates_no_database(url, tmp_path, ask, error):
    with service_with(url, FakeExecutor()) as service:
        assert service.jobs() == []
        with pytest.raises(error):
            ask(service)
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_waits_in_the_queue_of_a_dead_driver_is_run_first(url, monkeypatch):
    def die(*_args, **_kwargs):
        raise SystemExit

    with monkeypatch.context() as patched, service_with(url, FakeExecutor()) as service:
        patched.setattr(optuna.study.Study, "ask", die)
        with pytest.raises(SystemExit):
            service.tune(changed(trials=1), ignore)
    with service_with(url, FakeExecutor()) as service:
        assert service.run("job", ignore).recommendation.evidence == "confirmed"
        assert len(service.trials("job")) == 1


def test_the_largest_global_batch_still_makes_a_probe(url):
    with service_with(url, FakeExecutor()) as service:
        chosen = service.tune(changed(global_batch_size=1_000_000), ignore).recommendation
    assert chosen.global_batch_size == pytest.approx(1_000_000, rel=0.1)


def test_a_fault_of_ours_leaves_the_job_failed_and_not_running(url):
    class Faulty(FakeExecutor):
        def submit(self, request):
            raise ZeroDivisionError("a fault")

    with service_with(url, Faulty()) as service:
        with pytest.raises(ZeroDivisionError):
            service.tune(REQUEST, ignore)
        assert service.job("job").status == JobStatus.FAILED


def test_a_baseline_that_accumulates_hides_no_candidate(url):
    own = {"micro_batch_size": 4, "precision": "bf16", "sharding": "ddp", "gradient_accumulation_steps": 4}
    with service_with(url, executor := FakeExecutor()) as service:
        service.tune(changed(baseline=TrainingConfig(**own), trials=100, sampler="exhaustive"), ignore)
    asked = {config.gradient_accumulation_steps for config in executor.asked if config.micro_batch_size == 4}
    assert asked == {1, 4}


def test_a_pinned_accumulation_and_a_global_batch_contradict_each_other(url):
    settings = {**REQUEST.settings, "gradient_accumulation_steps": (2,)}
    with service_with(url, FakeExecutor()) as service, pytest.raises(BadInput, match="pinned"):
        service.tune(changed(global_batch_size=64, settings=settings), ignore)


@pytest.mark.parametrize(
    ("world_size", "gpus", "expected"),
    [
        (3, "cpu:2", "the inventory has 2"),
        (16, "2x12xH100", "do not fill whole nodes of 12"),
        (3, "3x4xH100", (1, 3, 3)),
        (8, "3x4xH100", (2, 4, 1)),
        (4, "3x4xH100", (1, 4, 3)),
    ],
)
def test_probes_of_a_smaller_world_lie_within_nodes(url, tmp_path, world_size, gpus, expected):
    space = tmp_path / "space.yaml"
    space.write_text(
        f"world_size: {world_size}\n"
        "dimensions: {micro_batch_size: [1, 2], sequence_length: 64, precision: fp32, sharding: [ddp]}\n"
    )
    layouts = []

    def remember(layout, address):
        layouts.append((layout.num_nodes, layout.ranks_per_node, layout.num_slots))
        return FakeExecutor(num_slots=layout.num_slots)

    request = TuneRequest(model="llama-20m", gpus=gpus, name="job", space=str(space), trials=2)
    with Service(url, {"ray": remember, "local": remember}) as service:
        if isinstance(expected, str):
            with pytest.raises(BadInput, match=expected):
                service.tune(request, ignore)
        else:
            answer = service.tune(request, ignore)
            assert layouts == [expected]
            assert answer.recommendation.global_batch_size % world_size == 0


def test_another_gpu_than_the_inventory_says_ends_the_job(url):
    executor = FakeExecutor(device_name="NVIDIA A100-SXM4-80GB")
    request = TuneRequest(model="llama-20m", gpus="H100:2", name="job", trials=2)
    wrong = pytest.raises(NotHere, match="NVIDIA A100-SXM4-80GB, not on the H100")
    with service_with(url, executor) as service, wrong:
        service.tune(request, ignore)


def test_one_probe_that_cannot_run_loses_no_other_result(url):
    """Two probes end together, and the executor has lost the workers of one of them."""

    class HalfLost(FakeExecutor):
        def submit(self, request):
            future = super().submit(request)
            if len(self.asked) % 2:
                future = Future()
                future.set_exception(ExecutionUnavailable("the workers are gone"))
            return future

    with service_with(url, HalfLost(num_slots=2)) as service:
        with pytest.raises(ExecutionUnavailable):
            service.tune(REQUEST, ignore)
        outcomes = [row.outcome for row in service.trials("job")]
    assert outcomes == [None, Outcome.MEASURED]
