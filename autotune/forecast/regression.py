"""Linear regression on the features of levels, with a rest that each configuration has for itself.

    f(x) = φ(x)ᵀ w + o(x),  w ~ N(0, diag(scale²)),  o(x) ~ N(0, own²) independent,

conditioned on observations of f (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2.1). It is
the Gaussian process with the covariance φ(x)ᵀ diag(scale²) φ(x') + own² · [x = x'], at a cost that grows with
the number of features cubed and with that of the observations only linearly.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from threadpoolctl import ThreadpoolController

from autotune.forecast.factors import Factors
from autotune.forecast.formats import Floats, Indices

_LIBRARIES = ThreadpoolController()


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Small matrices are not shared out among threads: those wait for each other where probes keep the cores
    busy, and then take seven times as long.
    """
    with _LIBRARIES.limit(limits=1, user_api="blas"):
        yield


@dataclass(frozen=True, eq=False)
class Pool:
    """What was observed of m configurations, all observations of one taken together."""

    factors: Factors
    """Of the m configurations."""
    features: Floats
    """Shape (m, features)."""
    precision: Floats
    """Sum over a configuration's observations of 1 / variance, shape (m,); 0 where there is none."""
    weighted: Floats
    """Sum of value / variance, shape (m,)."""

    @classmethod
    def of(cls, observed: Factors, values: Floats, precision: Floats) -> "Pool":
        """Of n observations; those of precision 0 add no more than their configuration."""
        first, places = observed.distinct
        factors = observed.select(first)
        return cls(
            factors,
            factors.summed(factors.features(factors)),
            np.bincount(places, precision, len(first)).astype(np.float64),
            np.bincount(places, precision * values, len(first)).astype(np.float64),
        )


@dataclass(frozen=True, eq=False)
class Regression:
    """The regression at given scales, conditioned on a pool."""

    pool: Pool
    scale: Floats
    """Prior standard deviation of each weight, shape (features,)."""
    own: float
    root: Floats
    """Lower Cholesky factor of the weights' posterior precision, times the scale on both sides."""
    half: Floats
    """root⁻¹ · the scaled right-hand side of the normal equations."""
    evidence: float
    """Log marginal likelihood, but for what scales do not change."""

    @classmethod
    def of(cls, pool: Pool, scale: Floats, own: float) -> "Regression":
        # What a configuration has for itself is noise to the weights; a precision may be 0.
        damped = 1 + own**2 * pool.precision
        precision, weighted = pool.precision / damped, pool.weighted / damped
        scaled = pool.features * scale
        count = len(scale)
        # Bordered by the right-hand side, the matrix has root⁻¹ · right in the last row of its factor, and in
        # its corner the root of 1 + (residual sum of squares).
        bordered = np.empty((count + 1, count + 1))
        bordered[:-1, :-1] = scaled.T @ (precision[:, None] * scaled) + np.eye(count)
        bordered[-1, :-1] = scaled.T @ weighted
        known = pool.precision > 0
        squares = (weighted[known] * pool.weighted[known] / pool.precision[known]).sum()
        bordered[-1, -1] = 1 + squares
        factor = np.linalg.cholesky(bordered).astype(np.float64)
        root, half = factor[:-1, :-1], factor[-1, :-1]
        log_likelihood = -(factor[-1, -1] ** 2) / 2 - np.log(damped).sum() / 2 - np.log(np.diag(root)).sum()
        return cls(pool, scale, own, root, half, float(log_likelihood))

    @cached_property
    def spread(self) -> Floats:
        """A root of the weights' covariance: spreadᵀ · spread, shape (features, features)."""
        spread: Floats = np.linalg.inv(self.root) * self.scale
        return spread

    @cached_property
    def weights(self) -> Floats:
        """Their mean, shape (features,)."""
        mean: Floats = self.half @ self.spread
        return mean

    def observed(self, rows: Indices) -> tuple[Floats, Floats]:
        """Mean and variance of f at some configurations of the pool."""
        features, damped = self.pool.features[rows], 1 + self.own**2 * self.pool.precision[rows]
        mean = (features @ self.weights + self.own**2 * self.pool.weighted[rows]) / damped
        explained = ((features @ self.spread.T) ** 2).sum(axis=1)
        return mean, explained / damped**2 + self.own**2 / damped
