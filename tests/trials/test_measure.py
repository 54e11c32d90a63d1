"""Warming up and measuring: when they end, and what they make of numbers that are not finite."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count, cycle, islice, repeat
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from probes import TINY

from trials import measure as measuring
from trials.contract.config import TrainingConfig
from trials.contract.constants import engine_constants
from trials.contract.messages import MeasurementPlan
from trials.data import Batch, TokenBatches
from trials.devices import CpuDevice
from trials.engines import Engine, Setting, StepOutcome, build_engine
from trials.measure import MAX_SKIPPED_STEPS, NonFinite, Stepper, measure, warm_up

CONFIG = TrainingConfig(precision="fp32", sequence_length=8)
STEADY = repeat(1.0)


class Clock:
    """Seconds that only pass when a step is said to take them."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class ScriptedEngine:
    """Takes the seconds it was told to take, and finds the losses and gradient norms it was told to find."""

    vocab_size = 96
    num_parameters = 1
    constants = engine_constants(1)

    def __init__(
        self,
        clock: Clock,
        seconds: Iterable[float] = STEADY,
        losses: Iterable[float] = repeat(1.0),
        norms: Iterable[float] = repeat(1.0),
    ) -> None:
        self._clock = clock
        self._seconds, self._losses, self._norms = iter(seconds), iter(losses), iter(norms)
        self.batches: list[Sequence[Batch]] = []

    def step(self, batches: Sequence[Batch]) -> StepOutcome:
        self.batches.append(batches)
        self._clock.now_s += next(self._seconds)
        return StepOutcome(torch.tensor(next(self._losses)), next(self._norms))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def stepper(engine: Engine, *, scaled: bool = False) -> Stepper:
    device = CpuDevice()
    batches = TokenBatches(
        CONFIG, vocab_size=96, replica=0, num_replicas=1, seed=0, device=device.torch_device
    )
    return Stepper(engine, batches, device, scaled=scaled)


def native(clock: Clock) -> Engine:
    return build_engine(
        Setting(
            model=TINY["llama"],
            config=CONFIG,
            device_kind="cpu",
            device=torch.device("cpu"),
            world_size=1,
            seed=0,
        )
    )


@pytest.mark.parametrize("make", [native, ScriptedEngine], ids=["native", "scripted"])
class TestEveryEngine:
    """What Stepper relies on; of the engines that need several processes, test_engines.py shows it."""

    def test_says_what_it_trains(self, make: Callable[[Clock], Engine], clock: Clock) -> None:
        engine = make(clock)
        assert engine.vocab_size == 96
        assert engine.num_parameters >= 1
        assert engine.constants == engine_constants(engine.num_parameters)

    def test_a_step_gives_a_loss_and_a_gradient_norm(
        self, make: Callable[[Clock], Engine], clock: Clock
    ) -> None:
        outcome = make(clock).step([{"input_ids": (tokens := torch.arange(8)[None]), "labels": tokens}])
        assert isinstance(outcome.loss, torch.Tensor)
        assert not outcome.loss.requires_grad
        assert math.isfinite(float(outcome.loss))
        assert float(outcome.gradient_norm) > 0


@pytest.mark.parametrize(
    ("seconds", "plan", "taken"),
    [
        (STEADY, {}, 2),
        (STEADY, {"min_warm_up_steps": 4}, 4),
        ([9, 1, 1], {}, 3),
        ([9, 5, 3, 2, 1.9], {}, 5),
        (cycle([1, 2]), {}, 6),
        (cycle([1, 2]), {"max_warm_up_steps": 9}, 9),
        ([1, 1.09], {}, 2),
        ([1, 1.11, 1.11], {}, 3),
        (STEADY, {"min_warm_up_steps": 1, "max_warm_up_steps": 1}, 1),
    ],
    ids=["steady", "least", "slow first", "slowing down", "most", "more", "almost", "not quite", "one"],
)  # fmt: skip
def test_the_warm_up_ends_when_steps_take_as_long_as_the_last(
    clock: Clock, seconds: Iterable[float], plan: dict[str, Any], taken: int
) -> None:
    engine = ScriptedEngine(clock, seconds)
    warming = stepper(engine)
    warm_up(warming, MeasurementPlan(**plan))
    assert len(engine.batches) == taken
    assert warming.measurement.step_s == []


@pytest.mark.parametrize(
    ("seconds", "plan", "taken"),
    [
        (STEADY, {}, 6),
        (STEADY, {"min_steps": 9}, 9),
        (cycle([1, 2]), {"max_measure_s": 1e9}, 40),
        (cycle([1, 2]), {"max_measure_s": 1e9, "max_steps": 7}, 7),
        (repeat(4.0), {}, 3),
        (repeat(4.0), {"least_steps": 5}, 5),
        (repeat(100.0), {}, 3),
        (cycle([0.5, 1]), {}, 14),
        (repeat(1e-9), {"min_steps": 1, "least_steps": 1}, 1),
        # Of twelve steps the interval leaves two out at each end, so two slow ones no longer widen it.
        (chain([2, 2], STEADY), {"max_measure_s": 1e9}, 12),
    ],
    ids=[
        "narrow", "at least", "at most", "fewer at most", "seconds", "however long", "very slow",
        "seconds spent", "one", "as soon as narrow",
    ],
)  # fmt: skip
def test_measuring_ends_with_a_narrow_interval_or_a_budget(
    clock: Clock, seconds: Iterable[float], plan: dict[str, Any], taken: int
) -> None:
    measured = stepper(ScriptedEngine(clock, seconds))
    seen: list[int] = []
    measure(measured, MeasurementPlan(**plan), seen.append)
    assert len(measured.measurement.step_s) == taken
    assert seen == list(range(1, taken + 1))


@pytest.mark.parametrize(
    ("seconds", "to_beat", "why", "taken"),
    [
        (repeat(1.0), None, None, 6),
        (repeat(1.0), 1.5, None, 6),
        (repeat(1.0), 0.5, "its fastest step took 1 s; that of the best so far takes 0.5 s", 2),
        # Not far beyond, but certainly beyond.
        (chain([0.9], repeat(1.0)), 0.95, "its median step takes 1 s or more; that of the best so far", 9),
        (chain([9.0], repeat(0.4)), 0.5, None, 9),  # one slow step says nothing
        (cycle([0.9, 1.1]), 1.0, None, 10),
    ],
)
def test_what_cannot_be_the_best_any_more_is_outpaced(
    clock: Clock, seconds: Iterable[float], to_beat: float | None, why: str | None, taken: int
) -> None:
    raced = stepper(ScriptedEngine(clock, seconds))
    plan = MeasurementPlan(step_to_beat_s=to_beat, max_measure_s=1e9, max_steps=10)
    outpaced = measure(raced, plan, lambda _: None)
    assert outpaced is None if why is None else (outpaced or "").startswith(why)
    assert len(raced.measurement.step_s) == taken


def test_a_warm_up_that_is_far_too_slow_need_not_settle(clock: Clock) -> None:
    raced = stepper(ScriptedEngine(clock, chain([9.0, 7.0, 5.0], repeat(3.0))))
    warm_up(raced, MeasurementPlan(step_to_beat_s=1.0))
    assert len(raced.measurement.losses) == 2


def test_what_is_measured_are_the_seconds_of_the_steps(clock: Clock) -> None:
    measured = stepper(ScriptedEngine(clock, count(1)))
    measure(measured, MeasurementPlan(max_measure_s=1e9, max_steps=8), lambda _: None)
    assert measured.measurement.step_s == [1, 2, 3, 4, 5, 6, 7, 8]


def test_every_step_trains_on_tokens_of_its_own(clock: Clock) -> None:
    engine = ScriptedEngine(clock)
    warming = stepper(engine)
    plan = MeasurementPlan()
    warm_up(warming, plan)
    measure(warming, plan, lambda _: None)
    seen = {tuple(b["input_ids"].flatten().tolist()) for batches in engine.batches for b in batches}
    assert len(seen) == len(engine.batches)


def test_losses_and_norms_of_the_warm_up_are_kept_too(clock: Clock) -> None:
    trained = stepper(ScriptedEngine(clock, losses=count(1), norms=count(101)))
    plan = MeasurementPlan(max_steps=3)
    warm_up(trained, plan)
    measure(trained, plan, lambda _: None)
    assert trained.measurement.losses == [1, 2, 3, 4, 5]
    assert trained.measurement.gradient_norms == [101, 102, 103, 104, 105]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_probe(clock: Clock, loss: float, scaled: bool) -> None:
    trained = stepper(ScriptedEngine(clock, losses=chain([1, 1], repeat(loss))), scaled=scaled)
    with pytest.raises(NonFinite, match=f"the loss of step 3 is {loss}"):
        measure(trained, MeasurementPlan(), lambda _: None)
    assert len(trained.measurement.step_s) == 2


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_norm_that_is_not_finite_ends_a_probe_without_a_loss_scaler(
    clock: Clock, norm: float
) -> None:
    trained = stepper(ScriptedEngine(clock, norms=[1, norm]))
    with pytest.raises(NonFinite, match=f"the gradient norm of step 2 is {norm}"):
        measure(trained, MeasurementPlan(), lambda _: None)


def test_steps_that_the_loss_scaler_throws_away_are_taken_again(clock: Clock) -> None:
    """They update nothing, so they neither warm up nor show how long a step takes."""
    norms = chain(islice(repeat(math.inf), 10), repeat(1.0))
    seconds = chain(islice(repeat(0.1), 10), [5.0, 2.0, 1.0, 1.0, 1.0])
    trained = stepper(ScriptedEngine(clock, seconds, norms=norms), scaled=True)
    plan = MeasurementPlan(max_steps=1)
    warm_up(trained, plan)
    measure(trained, plan, lambda _: None)
    assert len(trained.measurement.gradient_norms) == 15
    assert trained.measurement.step_s == [1.0]


def test_a_loss_scaler_that_never_finds_a_scale_is_non_finite(clock: Clock) -> None:
    trained = stepper(ScriptedEngine(clock, norms=repeat(math.inf)), scaled=True)
    with pytest.raises(NonFinite, match=f"the gradient norm of step {MAX_SKIPPED_STEPS + 1} is inf"):
        warm_up(trained, MeasurementPlan())
