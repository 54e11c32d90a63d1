"""Residuals of the forecast, logarithms of measured over forecast, learned factor by factor.

What is off is a sum over the factors of a configuration, its model and its world,

    r(x) = c + Σ_j e_j(x_j) + o(x),

so that one measurement shifts everything (c, with standard deviation s_c), each level of each factor may have
a bias of its own (e_j, s_m), and a rest belongs to one configuration alone (o, τ). The scales are averaged
over the best of a grid by marginal likelihood, under log-normal priors. With a handful of probes a general
kernel overfits; this one does not, and a thousand probes cost it no more than some milliseconds.

A censored residual is one that is known to be at least so large, as that of a peak that ran out of memory.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from autotune.forecast.factors import NUM_FACTORS, Factors
from autotune.forecast.formats import Floats
from autotune.forecast.regression import Pool, Regression, on_one_thread

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
    """What `residuals` of the `observed` configurations say of the `wanted` ones, as `Process` takes them."""
    return Process.of(prior, observed, residuals, noise, censored).at(wanted)


@dataclass(frozen=True, eq=False)
class Process:
    """What is believed of residuals, conditioned on observations once for all that is asked of it."""

    prior: Prior
    fits: "tuple[tuple[float, Regression], ...]"
    """The best of the grid with their weights, best first; none without observations."""

    @classmethod
    @on_one_thread()
    def of(
        cls,
        prior: Prior,
        observed: Factors,
        residuals: Floats,
        noise: Floats | None = None,
        censored: NDArray[np.bool_] | None = None,
    ) -> "Process":
        """`noise`: standard deviation of each observation, shape (len(observed),); `censored`: mask of those
        that are lower bounds.
        """
        if not len(observed):
            return cls(prior, ())
        precision = 1 / (np.full(len(observed), prior.noise) if noise is None else noise) ** 2
        if censored is None or not censored.any():
            return cls(prior, _best(prior, Pool.of(observed, residuals, precision)))
        # SciPy takes as long to import as a plan takes, which has no use for it.
        from autotune.forecast.censored import bounded

        pool = Pool.of(observed, residuals, np.where(censored, 0.0, precision))
        bounds = np.full(len(pool.precision), -np.inf)
        np.maximum.at(bounds, observed.distinct[1][censored], residuals[censored])
        # How far things are off is told by what is known exactly.
        level, own = prior.expected, prior.expected
        if not censored.all():
            (_, likeliest), *_ = _best(prior, pool)
            level, own = float(likeliest.scale[-1]), likeliest.own
        scale = _scale(prior, level, pool)
        return cls(prior, _best(prior, bounded(pool, bounds, scale, own)))

    @on_one_thread()
    def at(self, wanted: Factors) -> Residuals:
        """Of the `wanted` configurations; without observations what the prior has."""
        if not self.fits:
            wide = math.hypot(self.prior.common, self.prior.expected * math.sqrt(NUM_FACTORS + 1))
            return Residuals(np.zeros(len(wanted)), np.full(len(wanted), wide))
        observed = self.fits[0][1].pool.factors
        tables = wanted.features(observed)
        rows, places = wanted.matches(observed)
        means, spreads, of_rows = [], [], np.zeros(len(rows))
        for weight, fit in self.fits:
            mean = wanted.summed([table @ fit.weights for table in tables])
            mean[rows], variance = fit.observed(places)
            means.append(mean)
            spreads.append([math.sqrt(weight) * table @ fit.spread.T for table in tables])
            of_rows += weight * variance
        weights = np.array([weight for weight, _ in self.fits])
        own = weights @ [fit.own**2 for _, fit in self.fits]
        level = weights @ [fit.scale[-1] ** 2 for _, fit in self.fits]
        variance = wanted.squared([np.hstack(of_group) for of_group in zip(*spreads, strict=True)])
        variance += own + level * wanted.summed(wanted.unexplained(tables))
        variance[rows] = of_rows
        mean = weights @ np.array(means)
        between = weights @ (np.array(means) - mean) ** 2
        return Residuals(mean, np.sqrt(np.maximum(variance, 1e-12) + between))


def _best(prior: Prior, pool: Pool) -> tuple[tuple[float, Regression], ...]:
    """The best of the grid with their weights, best first."""
    found = []
    for level, own in product(prior.levels, prior.own):
        fit = Regression.of(pool, _scale(prior, level, pool), own)
        beliefs = _log_normal(level, prior.expected, LEVEL_WIDTH) + _log_normal(
            own, prior.expected, OWN_WIDTH
        )
        found.append((fit.evidence + beliefs, fit))
    best = sorted(found, key=lambda pair: -pair[0])[:BEST_OF_GRID]
    weights = np.exp([evidence - best[0][0] for evidence, _ in best])
    weights /= weights.sum()
    return tuple((float(weight), fit) for weight, (_, fit) in zip(weights, best, strict=True))


def _scale(prior: Prior, level: float, pool: Pool) -> Floats:
    """Of the weights: that of what is common comes first."""
    scale = np.full(pool.features.shape[1], level)
    scale[0] = prior.common
    return scale


def _log_normal(value: float, middle: float, width: float) -> float:
    """Log density, but for a constant, of a scale's logarithm."""
    return -(((math.log(value) - math.log(middle)) / width) ** 2) / 2
