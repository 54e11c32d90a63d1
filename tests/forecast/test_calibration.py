"""Forecasts brought to measurements: what is learned of a probe, and what becomes of a forecast."""

import numpy as np
import pytest

from autotune.forecast.calibration import Calibration, Observation, outside_bytes
from autotune.forecast.forecast import Forecast, forecast
from autotune.hardware.parse import parse_inventory
from autotune.models.resolve import resolve
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig
from trials.contract.messages import Estimate, MemoryPeaks, ProbeResult
from trials.contract.outcome import Outcome, Phase

MODEL = resolve("llama-3.2-1b")
GROUP = parse_inventory("H100:8").group
WORLD = 8
GRID = [
    TrainingConfig(micro_batch_size=size, sharding=sharding, activation_checkpointing=checkpointing)
    for size in (1, 2, 3, 4, 6, 8)
    for sharding in ("ddp", "fsdp", "zero2")
    for checkpointing in ("none", "full")
]


def forecast_of(configs: list[TrainingConfig]) -> Forecast:
    return forecast(MODEL.shape, GROUP, WORLD, Columns.of(configs))


def result(config: TrainingConfig, *, slower: float, larger: float, outside: int) -> ProbeResult:
    """What a probe would give where speed, tensors and what lies outside are off like that."""
    one = forecast_of([config])
    speed = float(one.tokens_per_second[0]) / slower
    reserved = int(one.reserved_bytes[0] * larger)
    fixed = int(one.parts["fixed"][0]) + outside
    light = MemoryPeaks(device_bytes=fixed, reserved_bytes=0)
    return ProbeResult(
        probe_id="p",
        outcome=Outcome.MEASURED,
        phase=Phase.DONE,
        tokens_per_second=Estimate(median=speed, low=speed * 0.99, high=speed * 1.01),
        peak_bytes=reserved + fixed,
        memory=(light, MemoryPeaks(device_bytes=reserved + fixed, reserved_bytes=reserved)),
    )


def calibrated_by(configs: list[TrainingConfig], model: str = MODEL.spec.digest, **off: float) -> Calibration:
    found = [Observation.of(model, WORLD, c, result(c, **off), forecast_of([c])) for c in configs]
    return Calibration([o for o in found if o is not None])


def test_without_measurements_nothing_changes() -> None:
    plain = forecast_of(GRID)
    found = Calibration().apply(MODEL.spec.digest, WORLD, Columns.of(GRID), plain)
    assert found.forecast is plain
    assert (found.cautious_bytes == plain.device_bytes).all()


def test_what_was_not_measured_teaches_nothing() -> None:
    failed = ProbeResult(probe_id="p", outcome=Outcome.OUT_OF_MEMORY, phase=Phase.WARM_UP)
    assert Observation.of("m", WORLD, GRID[0], failed, forecast_of(GRID[:1])) is None


@pytest.mark.parametrize(
    ("peaks", "outside"),
    [
        (MemoryPeaks(device_bytes=100, reserved_bytes=70, baseline_bytes=20), 30),
        (MemoryPeaks(device_bytes=100, baseline_bytes=20), 25),
    ],
)
def test_outside_of_tensors_is_what_the_allocator_does_not_hold(peaks: MemoryPeaks, outside: int) -> None:
    assert outside_bytes(peaks, 25) == outside


def test_three_probes_move_the_whole_space() -> None:
    off = {"slower": 1.4, "larger": 1.1, "outside": 200 * 2**20}
    found = calibrated_by([GRID[0], GRID[15], GRID[34]], **off)
    plain = forecast_of(GRID)
    one = found.apply(MODEL.spec.digest, WORLD, Columns.of(GRID), plain).forecast
    np.testing.assert_allclose(one.tokens_per_second, plain.tokens_per_second / 1.4, rtol=0.04)
    np.testing.assert_allclose(one.reserved_bytes, plain.reserved_bytes * 1.1, rtol=0.02)
    assert (one.parts["fixed"] == plain.parts["fixed"] + 200 * 2**20).all()
    assert (sum(one.parts.values(), np.zeros(len(GRID), dtype=int)) == one.peak_bytes).all()
    tokens = np.array([config.tokens_per_step(WORLD) for config in GRID])
    np.testing.assert_allclose(one.step_s * one.tokens_per_second, tokens)
    assert one.mfu is not None
    assert plain.mfu is not None
    np.testing.assert_allclose(one.mfu / plain.mfu, one.tokens_per_second / plain.tokens_per_second)


def test_another_model_teaches_less_but_something() -> None:
    off = {"slower": 1.4, "larger": 1.0, "outside": 0}
    plain = forecast_of(GRID[1:2])

    def faster(model: str) -> float:
        found = calibrated_by(GRID[:1], model, **off)
        one = found.apply(MODEL.spec.digest, WORLD, Columns.of(GRID[1:2]), plain).forecast
        return float(one.tokens_per_second[0] / plain.tokens_per_second[0])

    assert faster(MODEL.spec.digest) < faster("another") < 0.8


def test_doubt_counts_against_the_ceiling() -> None:
    """What is expected to be usable does not fit where it might as well be over the ceiling."""
    found = calibrated_by(GRID[:1], slower=1.0, larger=1.0, outside=0)
    plain = forecast_of(GRID)
    one = found.apply(MODEL.spec.digest, WORLD, Columns.of(GRID), plain)
    assert (one.cautious_bytes > one.forecast.device_bytes).all()
    doubted = int(np.argmax(one.cautious_bytes / one.forecast.device_bytes))
    usable = int(one.forecast.device_bytes[doubted])
    assert not one.fits(usable, usable)[doubted]
    assert one.fits(int(one.cautious_bytes[doubted]), usable)[doubted]
