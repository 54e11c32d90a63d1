"""Medians and their intervals."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trials.contract.messages import Estimate
from trials.contract.statistics import median_interval, relative_half_width, throughput

seconds = st.floats(min_value=1e-6, max_value=1e6)
samples = st.lists(seconds, min_size=1, max_size=60)
few = st.lists(seconds, min_size=2, max_size=5)
NOISE = 0.1
ROUNDS = 2000
LARGEST_ERROR = 3 * math.sqrt(0.95 * 0.05 / ROUNDS)
"""Three standard errors of a share of 95 % in so many rounds."""


@given(samples)
def test_the_interval_encloses_the_median(step_s: list[float]) -> None:
    estimate = median_interval(step_s)
    assert estimate.low <= estimate.median <= estimate.high


@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_samples_means_nothing(step_s: list[float], chance: random.Random) -> None:
    shuffled = chance.sample(step_s, len(step_s))
    assert median_interval(shuffled) == median_interval(step_s)


@given(samples, st.integers(min_value=-20, max_value=20))
def test_another_unit_is_another_scale_and_nothing_else(step_s: list[float], exponent: int) -> None:
    unit = 2.0**exponent  # exact in floating point
    scaled, plain = median_interval([unit * s for s in step_s]), median_interval(step_s)
    for end in ("low", "median", "high"):
        assert getattr(scaled, end) == pytest.approx(unit * getattr(plain, end), rel=1e-9)


@given(seconds, st.integers(min_value=1, max_value=60))
def test_without_noise_there_is_no_width(step_s: float, count: int) -> None:
    estimate = median_interval([step_s] * count)
    assert (estimate.low, estimate.high) == pytest.approx((step_s, step_s))
    assert relative_half_width(estimate) == pytest.approx(0, abs=1e-9)


@given(few)
def test_the_interval_of_few_samples_is_as_wide_downwards_as_upwards(step_s: list[float]) -> None:
    estimate = median_interval(step_s)
    assert estimate.high / estimate.median == pytest.approx(estimate.median / estimate.low)


@given(st.lists(seconds, min_size=6, max_size=60))
def test_the_interval_of_many_samples_lies_between_two_of_them(step_s: list[float]) -> None:
    estimate = median_interval(step_s)
    assert {estimate.low, estimate.high} <= set(step_s)


@pytest.mark.parametrize("count", range(3, 41))
def test_the_true_median_is_inside_95_times_in_a_hundred(count: int) -> None:
    chance = random.Random(count)
    inside = 0
    for _ in range(ROUNDS):
        estimate = median_interval([chance.lognormvariate(0, NOISE) for _ in range(count)])
        inside += estimate.low <= 1 <= estimate.high
    print(count, inside / ROUNDS)
    assert inside / ROUNDS >= 0.95 - LARGEST_ERROR


@pytest.mark.parametrize("count", range(6, 41))
def test_a_share_of_far_outliers_changes_nothing(count: int) -> None:
    """As when another process takes the machine for some of the steps."""
    chance = random.Random(count)
    step_s = sorted(chance.lognormvariate(0, NOISE) for _ in range(count))
    slowed = [*step_s[:-1], 1000 * step_s[-1]]
    assert median_interval(slowed).median == median_interval(step_s).median
    assert median_interval(slowed).low == median_interval(step_s).low


def test_more_samples_make_it_narrower() -> None:
    chance = random.Random(0)
    step_s = [chance.lognormvariate(0, NOISE) for _ in range(1000)]
    widths = [relative_half_width(median_interval(step_s[:count])) for count in (3, 10, 40, 160, 1000)]
    assert widths == sorted(widths, reverse=True)


def test_no_samples_have_no_median() -> None:
    with pytest.raises(ValueError, match="median of nothing"):
        median_interval([])


def test_a_median_of_zero_is_known_to_no_relative_width() -> None:
    assert relative_half_width(Estimate(median=0, low=0, high=0)) == math.inf


@given(samples, st.integers(min_value=1, max_value=2**40))
def test_throughput_is_tokens_over_seconds(step_s: list[float], tokens: int) -> None:
    speed, step = throughput(tokens, step_s), median_interval(step_s)
    assert speed.low <= speed.median <= speed.high
    assert speed.median * step.median == pytest.approx(tokens)
    assert (speed.low * step.high, speed.high * step.low) == pytest.approx((tokens, tokens))
