"""Lower bounds as observations."""

import numpy as np
import pytest
from scipy.stats import norm

from autotune.forecast.censored import uncensored
from autotune.forecast.factors import Factors
from autotune.forecast.residuals import MEMORY, posterior
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig


def factors(*rows: dict[str, object]) -> Factors:
    return Factors.of(Columns.of([TrainingConfig(**row) for row in rows]))


@pytest.mark.parametrize("bound", [-3.0, -0.5, 0.0, 1.0, 4.0])
def test_one_bound_alone_gives_the_mean_and_variance_of_the_cut_normal(bound):
    value, variance = uncensored(np.eye(1), np.array([bound]), np.array([1e-6]), np.array([True]))
    precision = 1 + 1 / variance[0]
    cut = norm.pdf(bound) / norm.sf(bound)
    assert value[0] / variance[0] / precision == pytest.approx(cut, rel=1e-3, abs=1e-5)
    assert 1 / precision == pytest.approx(1 - cut * (cut - bound), rel=1e-3)


def test_what_is_known_stays_as_it_is():
    covariance = np.array([[1.0, 0.5], [0.5, 1.0]])
    values, variance = uncensored(
        covariance, np.array([0.3, 2.0]), np.array([0.01, 0.01]), np.array([False, True])
    )
    assert (values[0], variance[0]) == (0.3, pytest.approx(0.01))
    assert values[1] > 2.0


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
