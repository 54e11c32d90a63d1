"""What measurements teach the forecast: residuals of log bytes and log tokens/s, learned factor by factor.

A Gaussian process with an additive kernel over the factors of a configuration,

    k(x, x') = s_c² + s_m² · Σ_j k_j(x_j, x'_j) + τ² · [x = x'],

so that one measurement shifts everything (s_c), each level of each factor may have a bias of its own (s_m),
and a rest belongs to one configuration alone (τ). The scales are averaged over the best of a grid by marginal
likelihood, under log-normal priors. With a handful of probes a general kernel overfits; this one does not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from autotune.forecast.formats import Floats
from search_spaces.columns import FIELDS, Columns

DERIVED = "gradient_accumulation_steps"
SMOOTH = ("micro_batch_size", "sequence_length")
"""Factors whose neighbours resemble each other, by the logarithm of their size; the others are categories."""
CATEGORIES = tuple(field for field in FIELDS if field not in (*SMOOTH, DERIVED))
NUM_FACTORS = len(SMOOTH) + len(CATEGORIES)
SMOOTH_SHARE = 0.7
"""Of the kernel of a smooth factor; the rest is whether both sizes are divisible by 8, 4, 2 or odd."""
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
    levels=(0.006, 0.018, 0.06, 0.15),
    own=(0.012, 0.03, 0.072, 0.18),
    expected=0.036,
    noise=0.003,
)
LEVEL_WIDTH, OWN_WIDTH = 1.0, 0.8
"""Widths of the log-normal priors."""


@dataclass(frozen=True, eq=False)
class Factors:
    """The factors of n configurations: categories as codes of shape (n, c), smooth ones of shape (n, s)."""

    codes: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    logs: Floats
    """Base 2."""
    alignments: np.ndarray[tuple[int, int], np.dtype[np.int64]]

    @classmethod
    def of(cls, columns: Columns) -> "Factors":
        sizes = np.stack([columns.count(field) for field in SMOOTH], axis=1)
        return cls(
            codes=np.stack([columns.values[field].astype(np.int64) for field in CATEGORIES], axis=1),
            logs=np.log2(sizes.astype(np.float64)),
            alignments=np.gcd(sizes, 8),
        )

    def __len__(self) -> int:
        return len(self.codes)


def kernels(rows: Factors, others: Factors) -> tuple[Floats, Floats]:
    """Σ_j k_j and [x = x'], both of shape (rows, others)."""
    total = np.zeros((len(rows), len(others)))
    same = np.ones_like(total, dtype=np.bool_)
    for factor in range(rows.codes.shape[1]):
        equal = rows.codes[:, factor, None] == others.codes[None, :, factor]
        total += equal
        same &= equal
    for factor in range(rows.logs.shape[1]):
        distance = rows.logs[:, factor, None] - others.logs[None, :, factor]
        aligned = rows.alignments[:, factor, None] == others.alignments[None, :, factor]
        total += SMOOTH_SHARE * np.exp(-(distance**2) / 2) + (1 - SMOOTH_SHARE) * aligned
        same &= distance == 0
    return total, same.astype(np.float64)


@dataclass(frozen=True)
class Residuals:
    """Posterior of the residuals of n configurations: logarithms of measured over forecast, shape (n,)."""

    mean: Floats
    deviation: Floats


def posterior(
    prior: Prior, observed: Factors, residuals: Floats, wanted: Factors, noise: Floats | None = None
) -> Residuals:
    """What `residuals` of the `observed` configurations say of the `wanted` ones.

    `noise`: standard deviation of each observation, shape (len(observed),). Without observations the prior.
    """
    if not len(observed):
        wide = math.hypot(prior.common, prior.expected * math.sqrt(NUM_FACTORS + 1))
        return Residuals(np.zeros(len(wanted)), np.full(len(wanted), wide))
    variance = np.full(len(observed), prior.noise) ** 2 if noise is None else noise**2
    among, same = kernels(observed, observed)
    across, equal = kernels(wanted, observed)
    fitted = sorted(
        (
            _Fit.of(prior, level, own, among, same, residuals, variance)
            for level, own in product(prior.levels, prior.own)
        ),
        key=lambda fit: -fit.evidence,
    )[:BEST_OF_GRID]
    weights = np.exp([fit.evidence - fitted[0].evidence for fit in fitted])
    weights /= weights.sum()
    predicted = [fit.predict(across, equal) for fit in fitted]
    mean = sum(weight * one.mean for weight, one in zip(weights, predicted, strict=True))
    spread = sum(
        weight * (one.deviation**2 + (one.mean - mean) ** 2)
        for weight, one in zip(weights, predicted, strict=True)
    )
    return Residuals(np.asarray(mean), np.sqrt(spread))


@dataclass(frozen=True, eq=False)
class _Fit:
    """The process at one point of the grid, conditioned on the observations."""

    prior: Prior
    level: float
    own: float
    root: Floats
    """Lower Cholesky factor of the observations' covariance."""
    solved: Floats
    """Covariance⁻¹ · residuals."""
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
        covariance = prior.common**2 + level**2 * among + own**2 * same + np.diag(variance)
        root = np.linalg.cholesky(covariance).astype(np.float64)
        half = np.linalg.solve(root, residuals)
        likelihood = -half @ half / 2 - np.log(np.diag(root)).sum()
        beliefs = _log_normal(level, prior.expected, LEVEL_WIDTH) + _log_normal(
            own, prior.expected, OWN_WIDTH
        )
        return cls(prior, level, own, root, np.linalg.solve(root.T, half), float(likelihood + beliefs))

    def predict(self, across: Floats, equal: Floats) -> Residuals:
        covariance = self.prior.common**2 + self.level**2 * across + self.own**2 * equal
        explained = np.linalg.solve(self.root, covariance.T)
        whole = self.prior.common**2 + self.level**2 * NUM_FACTORS + self.own**2
        variance = np.maximum(whole - (explained**2).sum(axis=0), 1e-12)
        return Residuals(covariance @ self.solved, np.sqrt(variance))


def _log_normal(value: float, middle: float, width: float) -> float:
    """Log density, but for a constant, of a scale's logarithm."""
    return -(((math.log(value) - math.log(middle)) / width) ** 2) / 2


def one_sided(residuals: Residuals, deviations: float = 1.0) -> Floats:
    """A residual of memory that errs on the safe side: the mean and so many standard deviations more."""
    return residuals.mean + deviations * residuals.deviation


def log_ratios(measured: Sequence[float], forecast: Sequence[float]) -> Floats:
    return np.log(np.asarray(measured, dtype=np.float64) / np.asarray(forecast, dtype=np.float64))
