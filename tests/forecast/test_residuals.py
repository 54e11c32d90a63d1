"""Residuals: one measurement shifts all, a few find the level that is off, doubt goes where nothing was."""

import numpy as np
import pytest

from autotune.forecast.factors import Factors
from autotune.forecast.residuals import MEMORY, SPEED, posterior
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig


def factors(*rows: dict[str, object]) -> Factors:
    return Factors.of(Columns.of([TrainingConfig(**row) for row in rows]))


GRID = [
    {"micro_batch_size": size, "sharding": sharding, "activation_checkpointing": checkpointing}
    for size in (1, 2, 3, 4, 6, 8)
    for sharding in ("ddp", "fsdp", "zero2")
    for checkpointing in ("none", "full")
]


@pytest.mark.parametrize("prior", [SPEED, MEMORY])
def test_without_measurements_there_is_only_doubt(prior):
    nothing = Factors.of(Columns.of([TrainingConfig()]).between(0, 0))
    found = posterior(prior, nothing, np.zeros(0), factors(*GRID))
    assert (found.mean == 0).all()
    assert (found.deviation > prior.expected).all()


def test_one_measurement_shifts_everything():
    found = posterior(SPEED, factors(GRID[0]), np.log([0.5]), factors(*GRID))
    assert found.mean[0] == pytest.approx(np.log(0.5), abs=0.05)
    assert (found.mean < np.log(0.65)).all()
    assert found.deviation[0] < found.deviation[1:].min()


def test_a_level_that_is_off_is_found():
    """FSDP is 30 % slower than forecast, everything else as it should be."""
    seen = GRID[::4]
    truth = np.array([np.log(0.7) if row["sharding"] == "fsdp" else 0.0 for row in GRID])
    found = posterior(SPEED, factors(*seen), truth[::4], factors(*GRID))
    np.testing.assert_allclose(found.mean, truth, atol=0.06)


def test_three_probes_bring_memory_within_three_percent():
    """A forecast that is 12 % low, and 3 % more so under checkpointing."""
    truth = np.array([0.12 + 0.03 * (row["activation_checkpointing"] == "full") for row in GRID])
    chosen = [0, 15, 34]
    found = posterior(MEMORY, factors(*(GRID[i] for i in chosen)), truth[chosen], factors(*GRID))
    assert np.abs(found.mean - truth).mean() < 0.03
    assert (found.mean + 2 * found.deviation >= truth).all()


def test_what_was_measured_is_believed():
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 0.2, len(GRID))
    found = posterior(SPEED, factors(*GRID), truth, factors(*GRID))
    assert np.abs(found.mean - truth).mean() < 0.06


def test_doubt_is_of_the_right_size():
    rng = np.random.default_rng(1)
    misses = []
    for _ in range(30):
        levels = {name: rng.normal(0, 0.1) for name in ("ddp", "fsdp", "zero2", "none", "full")}
        truth = np.array(
            [
                0.1 + levels[str(row["sharding"])] + levels[str(row["activation_checkpointing"])]
                for row in GRID
            ]
        ) + rng.normal(0, 0.05, len(GRID))
        chosen = rng.choice(len(GRID), 6, replace=False)
        found = posterior(SPEED, factors(*(GRID[i] for i in chosen)), truth[chosen], factors(*GRID))
        rest = np.setdiff1d(np.arange(len(GRID)), chosen)
        misses.append(((truth - found.mean) / found.deviation)[rest])
    assert 0.5 < np.std(np.concatenate(misses)) < 1.6
