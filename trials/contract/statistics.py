"""Medians and their intervals, from as few samples as a probe affords."""

import math
from collections.abc import Sequence
from statistics import median

from trials.contract.messages import Estimate


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Median of `samples` with its distribution-free interval.

    The interval is between two order statistics; its coverage follows from the binomial distribution
    (Conover, Practical Nonparametric Statistics, 3.2). Under six samples no pair of them reaches 95 %,
    and the range is returned. Raises ValueError when there are none.
    """
    if not samples:
        raise ValueError("the median of nothing")
    ordered = sorted(samples)
    n = len(ordered)
    tail, rank = 0.5**n, 0
    while tail + math.comb(n, rank + 1) * 0.5**n <= (1 - confidence) / 2 and rank + 1 < n // 2:
        rank += 1
        tail += math.comb(n, rank) * 0.5**n
    return Estimate(median=median(ordered), low=ordered[rank], high=ordered[n - 1 - rank])


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
