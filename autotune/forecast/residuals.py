"""Residuals of the forecast, logarithms of measured over forecast, learned factor by factor.

A Gaussian process with an additive kernel over the factors of a configuration, its model and its world,

    k(x, x') = s_c² + s_m² · Σ_j k_j(x_j, x'_j) + τ² · [x = x'],

so that one measurement shifts everything (s_c), each level of each factor may have a bias of its own (s_m),
and a rest belongs to one configuration alone (τ). The scales are averaged over the best of a grid by marginal
likelihood, under log-normal priors. With a handful of probes a general kernel overfits; this one does not.

A censored residual is one that is known to be at least so large, as that of a peak that ran out of memory.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from autotune.forecast.factors import NUM_FACTORS, Factors
from autotune.forecast.formats import Floats

BEST_OF_GRID = 3


@dataclass(frozen=True)
class Prior:
    """What is believed of residuals before any measurement; standard deviations of logarithms."""

    common: float
    """s_c."""
    levels: tuple[float, ...]
    """Grid of s_m."""
    own: tuple[float, ...]
    """Grid of τ."""
    expected: float
    """Where the log-normal priors of s_m and τ have their middle: 0.6 times the forecast's accuracy."""
    noise: float
    """Of a measurement, where it says nothing better."""


SPEED = Prior(
    common=0.3,
    levels=(0.01, 0.03, 0.1, 0.25),
    own=(0.02, 0.05, 0.12, 0.3),
    expected=0.06,
    noise=0.03,
)
MEMORY = Prior(
    common=0.12,
    levels=(0.02, 0.06, 0.2, 0.5),
    own=(0.012, 0.03, 0.072, 0.18),
    expected=0.036,
    noise=0.003,
)
LEVEL_WIDTH, OWN_WIDTH = 1.0, 0.8
"""Widths of the log-normal priors."""


@dataclass(frozen=True, eq=False)
class Residuals:
    """Posterior of the residuals of n configurations, shape (n,)."""

    mean: Floats
    deviation: Floats


def posterior(
    prior: Prior,
    observed: Factors,
    residuals: Floats,
    wanted: Factors,
    noise: Floats | None = None,
    censored: NDArray[np.bool_] | None = None,
) -> Residuals:
    """What `residuals` of the `observed` configurations say of the `wanted` ones.

    `noise`: standard deviation of each observation, shape (len(observed),); `censored`: mask of those that
    are lower bounds. Without observations the prior.
    """
    if not len(observed):
        wide = math.hypot(prior.common, prior.expected * math.sqrt(NUM_FACTORS + 1))
        return Residuals(np.zeros(len(wanted)), np.full(len(wanted), wide))
    variance = np.full(len(observed), prior.noise) ** 2 if noise is None else noise**2
    among = observed.summed(observed.likeness(observed))
    same = observed.same(observed).astype(np.float64)
    if censored is not None and censored.any():
        # SciPy takes as long to import as a plan takes, which has no use for it.
        from autotune.forecast.censored import uncensored

        level, own = _likeliest(prior, among, same, residuals, variance, ~censored)
        covariance = prior.common**2 + level**2 * among + own**2 * same
        residuals, variance = uncensored(covariance, residuals, variance, censored)
    return _predicted(prior, _fits(prior, among, same, residuals, variance), observed, wanted)


def _likeliest(
    prior: Prior, among: Floats, same: Floats, residuals: Floats, variance: Floats, known: NDArray[np.bool_]
) -> tuple[float, float]:
    """s_m and τ by the observations that are `known`."""
    if not known.any():
        return prior.expected, prior.expected
    pairs = np.ix_(known, known)
    best = _fits(prior, among[pairs], same[pairs], residuals[known], variance[known])[0]
    return best.level, best.own


@dataclass(frozen=True, eq=False)
class _Fit:
    """The process at one point of the grid, conditioned on the observations."""

    level: float
    """s_m."""
    own: float
    """τ."""
    root: Floats
    """Lower Cholesky factor of the observations' covariance."""
    half: Floats
    """root⁻¹ · residuals."""
    evidence: float
    """Log marginal likelihood with the log priors of the scales."""

    @classmethod
    def of(
        cls,
        prior: Prior,
        level: float,
        own: float,
        among: Floats,
        same: Floats,
        residuals: Floats,
        variance: Floats,
    ) -> "_Fit":
        count = len(residuals)
        # Bordered by the residuals, the covariance has root⁻¹ · residuals in the last row of its factor.
        bordered = np.empty((count + 1, count + 1))
        bordered[:-1, :-1] = prior.common**2 + level**2 * among + own**2 * same + np.diag(variance)
        bordered[-1, :-1] = residuals
        bordered[-1, -1] = 1 + residuals @ residuals / variance.min()
        factor = np.linalg.cholesky(bordered).astype(np.float64)
        root, half = factor[:-1, :-1], factor[-1, :-1]
        likelihood = -half @ half / 2 - np.log(np.diag(root)).sum()
        beliefs = _log_normal(level, prior.expected, LEVEL_WIDTH) + _log_normal(
            own, prior.expected, OWN_WIDTH
        )
        return cls(level, own, root, half, float(likelihood + beliefs))


def _fits(prior: Prior, among: Floats, same: Floats, residuals: Floats, variance: Floats) -> list[_Fit]:
    """The best of the grid, best first."""
    grid = (
        _Fit.of(prior, level, own, among, same, residuals, variance)
        for level, own in product(prior.levels, prior.own)
    )
    return sorted(grid, key=lambda fit: -fit.evidence)[:BEST_OF_GRID]


def _predicted(prior: Prior, fits: Sequence[_Fit], observed: Factors, wanted: Factors) -> Residuals:
    """The mixture of what the fits expect, each with the weight of its evidence."""
    weights = np.exp([fit.evidence - fits[0].evidence for fit in fits])
    weights /= weights.sum()
    likeness = wanted.likeness(observed)
    measured = wanted.among(observed)
    rows = wanted.select(measured)
    equal = rows.same(observed)
    means, halves = [], []
    whole, of_rows = 0.0, np.zeros(len(rows))
    for weight, fit in zip(weights, fits, strict=True):
        # What is common to all is shared out among the groups, of which each row has one combination.
        common = prior.common**2 / len(wanted.groups)
        tables = [fit.level**2 * table + common for table in likeness]
        inverse = np.linalg.inv(fit.root)
        solved = fit.half @ inverse
        mean = wanted.summed([table @ solved for table in tables])
        covariance = rows.summed(tables) + fit.own**2 * equal
        mean[measured] = covariance @ solved
        means.append(mean)
        halves.append([math.sqrt(weight) * table @ inverse.T for table in tables])
        of_rows += weight * ((covariance @ inverse.T) ** 2).sum(axis=1)
        whole += weight * (prior.common**2 + fit.level**2 * NUM_FACTORS + fit.own**2)
    explained = wanted.squared([np.hstack(of_group) for of_group in zip(*halves, strict=True)])
    explained[measured] = of_rows
    mean = weights @ np.array(means)
    between = weights @ (np.array(means) - mean) ** 2
    return Residuals(mean, np.sqrt(np.maximum(whole - explained, 1e-12) + between))


def _log_normal(value: float, middle: float, width: float) -> float:
    """Log density, but for a constant, of a scale's logarithm."""
    return -(((math.log(value) - math.log(middle)) / width) ** 2) / 2
