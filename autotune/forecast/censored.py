"""Lower bounds among the observations of a Gaussian process, by expectation propagation.

What is known of a censored value is that it is at least its bound. Its site stands for that: a normal
observation that gives the value the mean and the variance which the normal of all others has when it is cut
off at the bound (Minka 2001; Rasmussen and Williams, Gaussian Processes for Machine Learning, 3.6).
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from autotune.forecast.formats import Floats

SWEEPS = 4
"""Over all censored values; after them sites move no more."""
LEAST_PRECISION = 1e-6
"""Of a site: a bound that teaches nothing, since the value is far above it anyway."""


def uncensored(
    covariance: Floats, values: Floats, variance: Floats, censored: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Values and variances under which all n are plain observations.

    `covariance` is the prior's, shape (n, n), without noise; `variance` the noise's, shape (n,).
    """
    values, precision = values.copy(), 1.0 / variance
    bounds = values[censored]
    precision[censored] = 0.0
    for _ in range(SWEEPS):
        believed = _conditioned(covariance, precision)  # anew, lest roundings add up
        for index, bound in zip(np.flatnonzero(censored).tolist(), bounds.tolist(), strict=True):
            within = float(believed[index, index])
            # Without its own site a value is known less well, but never less than before anything was.
            others = max(1 / within - precision[index], 1 / covariance[index, index])
            weighted = believed[index] @ (precision * values) / within - precision[index] * values[index]
            site = _site(float(weighted / others), 1 / math.sqrt(others), bound)
            change = site[1] - precision[index]
            values[index], precision[index] = site
            column = believed[:, index].copy()
            believed -= np.outer(column, column * (change / (1 + change * within)))
    return values, 1.0 / np.maximum(precision, LEAST_PRECISION)


def _conditioned(covariance: Floats, precision: Floats) -> Floats:
    """Covariance once each value was observed with `precision`, which may be 0 (GPML, equation 3.26)."""
    roots = np.sqrt(precision)
    inner = np.eye(len(roots)) + roots[:, None] * covariance * roots
    half = np.linalg.solve(np.linalg.cholesky(inner), roots[:, None] * covariance)
    believed: Floats = covariance - half.T @ half
    return believed


def _site(mean: float, spread: float, bound: float) -> tuple[float, float]:
    """Value and precision of the observation that turns the normal into the one cut off at `bound`."""
    above = (mean - bound) / spread
    ratio = math.exp(-(above**2) / 2 - math.log(2 * math.pi) / 2 - float(log_ndtr(above)))
    cut_mean = mean + spread * ratio
    share = max(1 - ratio * (above + ratio), 1e-9)
    cut_precision = 1 / (spread**2 * share)
    precision = max(cut_precision - 1 / spread**2, LEAST_PRECISION)
    return (cut_mean * cut_precision - mean / spread**2) / precision, precision
