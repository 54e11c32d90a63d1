"""Lower bounds as observations."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from autotune.forecast.censored import bounded
from autotune.forecast.factors import Factors
from autotune.forecast.regression import Pool, Regression
from autotune.forecast.residuals import MEMORY, posterior
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig


def factors(*rows: dict[str, object]) -> Factors:
    return Factors.of(Columns.of([TrainingConfig(**row) for row in rows]))


def pool(*precisions: float, values: float = 0.0) -> Pool:
    """Configurations that have a scale of 1 in common with themselves alone, so far as it goes."""
    seen = factors(*({"micro_batch_size": 2**number} for number in range(len(precisions))))
    found = Pool.of(seen, np.full(len(precisions), values), np.array(precisions))
    return replace(found, features=np.eye(len(precisions)))


@pytest.mark.parametrize("bound", [-3.0, -0.5, 0.0, 1.0, 4.0])
def test_one_bound_alone_gives_the_mean_and_variance_of_the_cut_normal(bound):
    found = bounded(pool(0.0), np.array([bound]), np.ones(1), 0.0)
    (mean,), (variance,) = Regression.of(found, np.ones(1), 0.0).observed(np.array([0]))
    cut = norm.pdf(bound) / norm.sf(bound)
    assert mean == pytest.approx(cut, rel=1e-3, abs=1e-4)
    assert variance == pytest.approx(1 - cut * (cut - bound), rel=1e-3)


def test_bounds_together_give_what_drawing_gives():
    """Two values that have most in common, one known to be above 0, the other above 1."""
    scale, own = np.full(1, 1.0), 0.5
    both = replace(pool(0.0, 0.0), features=np.ones((2, 1)))
    mean, variance = Regression.of(bounded(both, np.array([0.0, 1.0]), scale, own), scale, own).observed(
        np.arange(2)
    )
    rng = np.random.default_rng(0)
    drawn = rng.normal(0, 1.0, (1_000_000, 1)) + rng.normal(0, own, (1_000_000, 2))
    kept = drawn[(drawn[:, 0] > 0.0) & (drawn[:, 1] > 1.0)]
    np.testing.assert_allclose(mean, kept.mean(axis=0), rtol=0.02)
    np.testing.assert_allclose(variance, kept.var(axis=0), rtol=0.05)


def test_what_is_known_stays_as_it_is():
    found = bounded(pool(100.0, 0.0, values=0.3), np.array([-np.inf, 2.0]), np.ones(2), 0.0)
    assert (found.weighted[0], found.precision[0]) == (pytest.approx(30.0), 100.0)
    assert found.weighted[1] / found.precision[1] > 2.0


def test_an_out_of_memory_raises_what_is_expected_of_its_like_and_no_more_than_it_must():
    """A peak at least 10 % above its forecast."""
    seen = factors({"sharding": "ddp", "micro_batch_size": 4}, {"sharding": "fsdp", "micro_batch_size": 4})
    wanted = factors(
        {"sharding": "ddp", "micro_batch_size": 4},
        {"sharding": "ddp", "micro_batch_size": 2},
        {"sharding": "fsdp", "micro_batch_size": 4},
    )
    bound, mask = np.array([0.1, 0.0]), np.array([True, False])
    noise = np.array([0.003, 0.003])
    censored = posterior(MEMORY, seen, bound, wanted, noise, mask)
    exact = posterior(MEMORY, seen, bound, wanted, noise)
    assert censored.mean[0] > 0.1
    assert censored.mean[0] > censored.mean[1] > censored.mean[2]
    assert censored.deviation[0] > exact.deviation[0]


def test_a_bound_far_below_what_is_expected_teaches_nothing():
    seen = factors({"micro_batch_size": 1}, {"micro_batch_size": 2})
    noise = np.array([0.003, 0.003])
    with_bound = posterior(MEMORY, seen, np.array([0.05, -2.0]), seen, noise, np.array([False, True]))
    without = posterior(MEMORY, factors({"micro_batch_size": 1}), np.array([0.05]), seen, noise[:1])
    np.testing.assert_allclose(with_bound.mean, without.mean, atol=1e-3)
