"""The whole job when things go wrong around it: machines, drivers, compilers, worlds that do not fit."""

import itertools
import re
from concurrent.futures import Future

import optuna
import pytest
from fakes import FakeExecutor
from small_job import REQUEST, changed, ignore, service_with

from autotune.errors import BadInput, ExecutionUnavailable, NotHere, NothingFits, NothingMeasured
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
    with service_with(url, FakeExecutor()) as service:
        again = changed(name="again", ceiling=suggestion, settings=settings)
        assert service.tune(again, ignore).recommendation is not None


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
    with service_with(url, executor) as service:  # noqa: SIM117
        with pytest.raises(NotHere, match="NVIDIA A100-SXM4-80GB, not on the H100"):
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
