"""Medians and their intervals, from as few samples as a probe affords."""

import math
from collections.abc import Mapping, Sequence
from statistics import median, stdev
from types import MappingProxyType

from trials.contract.messages import Estimate

ENOUGH_FOR_ORDER = 6
"""Samples from which two of them can enclose the median with 95 % probability: 1 - 2 · 0.5⁶ = 0.97."""

MEDIAN_T: Mapping[int, float] = MappingProxyType({2: 12.706, 3: 4.41, 4: 3.28, 5: 3.03})
"""Samples → how many standard errors of their mean the median of normal samples strays at most, in 95 of 100
cases. Of two it is their mean, and this Student's quantile; a median of more strays further than a mean, by
10 % at five (quantiles of sixteen million simulated medians)."""


def median_interval(samples: Sequence[float]) -> Estimate:
    """Median of positive `samples` with its 95 % interval.

    From six samples on it lies between two of them, whatever their distribution: the coverage of order
    statistics is binomial (Conover, Practical Nonparametric Statistics, 3.2). Two to five samples say too
    little for that; theirs is as Student's, but of the median of the logarithms, which takes noise to be
    log-normal. One sample has no width. Raises ValueError when there are none.
    """
    if not samples:
        raise ValueError("the median of nothing")
    ordered = sorted(samples)
    n = len(ordered)
    middle = median(ordered)
    if n >= ENOUGH_FOR_ORDER:
        rank = _outermost_rank(n)
        return Estimate(median=middle, low=ordered[rank], high=ordered[n - 1 - rank])
    if n == 1:
        return Estimate(median=middle, low=middle, high=middle)
    factor = math.exp(MEDIAN_T[n] * stdev(map(math.log, ordered)) / math.sqrt(n))
    return Estimate(median=middle, low=middle / factor, high=middle * factor)


def _outermost_rank(n: int) -> int:
    """How many samples may be left out at each end with at most 2.5 % of the median's probability beyond."""
    rank, tail = 0, _heads(n, 0)
    while True:
        tail += _heads(n, rank + 1)
        if tail > 0.025:
            return rank
        rank += 1


def _heads(n: int, k: int) -> float:
    """Probability of k heads in n tosses; by logarithms, which no number of samples overflows."""
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways - n * math.log(2))


def relative_half_width(estimate: Estimate) -> float:
    """Half the interval over the median; infinite when the median is 0."""
    if estimate.median == 0:
        return math.inf
    return (estimate.high - estimate.low) / 2 / abs(estimate.median)


def throughput(tokens_per_step: int, step_s: Sequence[float]) -> Estimate:
    """Tokens per second from seconds per step; the slow end of the one is the low end of the other."""
    step = median_interval(step_s)
    return Estimate(
        median=tokens_per_step / step.median, low=tokens_per_step / step.high, high=tokens_per_step / step.low
    )
