"""Residuals of the forecast, logarithms of measured over forecast, learned factor by factor.

A Gaussian process with an additive kernel over the factors of a configuration, its model and its world,

    k(x, x') = s_c² + s_m² · Σ_j k_j(x_j, x'_j) + τ² · [x = x'],

so that one measurement shifts everything (s_c), each level of each factor may have a bias of its own (s_m),
and a rest belongs to one configuration alone (τ). The scales are averaged over the best of a grid by marginal
likelihood, under log-normal priors. With a handful of probes a general kernel overfits; this one does not.

Since a factor has few levels however many configurations there are, mean and variance are sums of table
entries: of a level, and of a pair of levels.

A censored residual is one that is known to be at least so large, as that of a peak that ran out of memory.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.forecast.formats import Floats, Indices
from search_spaces.columns import FIELDS, Columns, Counts

DERIVED = "gradient_accumulation_steps"
SMOOTH = ("micro_batch_size", "sequence_length")
"""Factors whose neighbours resemble each other, by the logarithm of their size; the others are categories."""
CATEGORIES = tuple(field for field in FIELDS if field not in (*SMOOTH, DERIVED))
MODEL, WORLD = "model", "world_size"
"""Factors that are the same for all configurations of a job."""
NUM_FACTORS = len(SMOOTH) + len(CATEGORIES) + 2
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


@dataclass(frozen=True)
class Factor:
    """One factor of n configurations."""

    name: str
    levels: Counts
    """The values that occur, ascending."""
    codes: Indices
    """Each configuration's place among them, shape (n,), or (1,) where all have the same."""

    @classmethod
    def of(cls, name: str, values: NDArray[Any]) -> "Factor":
        if len(values) and values.strides == (0,):
            values = values[:1]
        levels, codes = np.unique(values.astype(np.int64), return_inverse=True)
        return cls(name, levels, codes.astype(np.intp))

    def kernel(self, other: "Factor") -> Floats:
        """Likeness of the levels of the two, shape (levels, other's levels)."""
        mine, others = self.levels[:, None], other.levels[None, :]
        if self.name not in SMOOTH:
            equal: Floats = np.equal(mine, others).astype(np.float64)
            return equal
        distance = np.log2(mine) - np.log2(others)
        aligned = np.gcd(mine, 8) == np.gcd(others, 8)
        likeness: Floats = SMOOTH_SHARE * np.exp(-(distance**2) / 2) + (1 - SMOOTH_SHARE) * aligned
        return likeness


@dataclass(frozen=True)
class Factors:
    """All factors of n configurations."""

    count: int
    factors: tuple[Factor, ...]

    @classmethod
    def of(cls, columns: Columns, models: Sequence[int] = (0,), worlds: Sequence[int] = (1,)) -> "Factors":
        """`models` and `worlds` are those of each row, or one for all; a model is any number that is its."""
        jobs = {MODEL: np.asarray(models), WORLD: np.asarray(worlds)}
        values = {**{field: columns.values[field] for field in (*SMOOTH, *CATEGORIES)}, **jobs}
        return cls(len(columns), tuple(Factor.of(name, array) for name, array in values.items()))

    def __len__(self) -> int:
        return self.count

    def starts(self) -> Iterator[tuple[int, Indices]]:
        """Of each factor the place of its first level in a table of all levels, and its codes."""
        start = 0
        for factor in self.factors:
            yield start, factor.codes
            start += len(factor.levels)

    def likeness(self, others: "Factors") -> Floats:
        """Σ k_j with each of `others`, by level: shape (levels of all factors, others)."""
        return np.concatenate(
            [
                np.broadcast_to(mine.kernel(other)[:, other.codes], (len(mine.levels), len(others)))
                for mine, other in zip(self.factors, others.factors, strict=True)
            ]
        )

    def summed(self, table: Floats) -> Floats:
        """Of each row the sum of its levels' entries in a table of shape (levels, ...)."""
        rows = [np.take(table, start + codes, axis=0) for start, codes in self.starts()]
        return sum(rows[1:], np.zeros((self.count, *table.shape[1:])) + rows[0])

    def same(self, others: "Factors") -> NDArray[np.bool_]:
        """Shape (n, others): whether all factors are equal."""
        equal = np.ones((self.count, len(others)), dtype=np.bool_)
        for mine, other in zip(self.factors, others.factors, strict=True):
            equal &= mine.levels[mine.codes][:, None] == other.levels[other.codes][None, :]
        return equal

    def among(self, others: "Factors") -> Indices:
        """The rows that equal any of `others`."""
        key, other_key = np.zeros(self.count, dtype=np.int64), np.zeros(len(others), dtype=np.int64)
        known = np.ones(len(others), dtype=np.bool_)
        for mine, other in zip(self.factors, others.factors, strict=True):
            place = np.searchsorted(mine.levels, other.levels).clip(max=len(mine.levels) - 1)
            known &= (mine.levels[place] == other.levels)[other.codes]
            key = key * len(mine.levels) + mine.codes
            other_key = other_key * len(mine.levels) + place[other.codes]
        return np.flatnonzero(np.isin(key, other_key[known]))

    def without(self, same: Sequence[bool]) -> "Factors":
        """Only the factors that are not marked."""
        return Factors(
            self.count, tuple(f for f, left_out in zip(self.factors, same, strict=True) if not left_out)
        )

    def select(self, rows: Indices) -> "Factors":
        def chosen(factor: Factor) -> Factor:
            codes = np.broadcast_to(factor.codes, self.count)[rows]
            return Factor(factor.name, factor.levels, codes)

        return Factors(len(rows), tuple(map(chosen, self.factors)))


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
    observed, wanted, num_same = _differing(observed, wanted)
    among = observed.summed(observed.likeness(observed)) + num_same
    same = observed.same(observed).astype(np.float64)
    if censored is not None and censored.any():
        # SciPy takes as long to import as a plan takes, which has no use for it.
        from autotune.forecast.censored import uncensored

        level, own = _likeliest(prior, among, same, residuals, variance, ~censored)
        covariance = prior.common**2 + level**2 * among + own**2 * same
        residuals, variance = uncensored(covariance, residuals, variance, censored)
    fitted = _fits(prior, among, same, residuals, variance)
    weights = np.exp([fit.evidence - fitted[0].evidence for fit in fitted])
    weights /= weights.sum()
    likeness = wanted.likeness(observed)
    measured = wanted.among(observed)
    predicted = [fit.predict(observed, wanted, likeness, measured, num_same) for fit in fitted]
    mean = sum(weight * one.mean for weight, one in zip(weights, predicted, strict=True))
    spread = sum(
        weight * (one.deviation**2 + (one.mean - mean) ** 2)
        for weight, one in zip(weights, predicted, strict=True)
    )
    return Residuals(np.asarray(mean), np.sqrt(spread))


def _differing(observed: Factors, wanted: Factors) -> tuple[Factors, Factors, int]:
    """Both without the factors in which no two rows differ, and how many those are."""
    same = [
        len(mine.levels) == 1 and np.array_equal(mine.levels, other.levels)
        for mine, other in zip(observed.factors, wanted.factors, strict=True)
    ]
    if all(same):
        same[0] = False
    return observed.without(same), wanted.without(same), sum(same)


def _likeliest(
    prior: Prior, among: Floats, same: Floats, residuals: Floats, variance: Floats, known: NDArray[np.bool_]
) -> tuple[float, float]:
    """s_m and τ by the observations that are `known`."""
    if not known.any():
        return prior.expected, prior.expected
    pairs = np.ix_(known, known)
    best = _fits(prior, among[pairs], same[pairs], residuals[known], variance[known])[0]
    return best.level, best.own


def _fits(prior: Prior, among: Floats, same: Floats, residuals: Floats, variance: Floats) -> list["_Fit"]:
    """The best of the grid, best first."""
    grid = (
        _Fit.of(prior, level, own, among, same, residuals, variance)
        for level, own in product(prior.levels, prior.own)
    )
    return sorted(grid, key=lambda fit: -fit.evidence)[:BEST_OF_GRID]


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

    def predict(
        self, observed: Factors, wanted: Factors, likeness: Floats, measured: Indices, num_same: int
    ) -> Residuals:
        """`likeness` of the levels of `wanted` to the observations; `measured` are its rows among them."""
        # What is common to all is shared out among the factors, of which each row has one level.
        common = self.prior.common**2 + self.level**2 * num_same
        table = self.level**2 * likeness + common / len(wanted.factors)
        mean = wanted.summed(table @ self.solved)
        half = np.linalg.solve(self.root, table.T)
        explained = _quadratic(wanted, half.T @ half)
        if len(measured):
            rows = wanted.select(measured)
            covariance = rows.summed(table) + self.own**2 * rows.same(observed)
            mean[measured] = covariance @ self.solved
            half = np.linalg.solve(self.root, covariance.T)
            explained[measured] = (half**2).sum(axis=0)
        whole = self.prior.common**2 + self.level**2 * NUM_FACTORS + self.own**2
        return Residuals(mean, np.sqrt(np.maximum(whole - explained, 1e-12)))


def _quadratic(wanted: Factors, pairs: Floats) -> Floats:
    """Of each row the sum over all pairs of its levels; `pairs` is symmetric, of shape (levels, levels)."""
    total = np.zeros(len(wanted))
    places = list(wanted.starts())
    for index, (start, codes) in enumerate(places):
        total += pairs[start + codes, start + codes]
        for other_start, other_codes in places[:index]:
            total += 2 * pairs[start + codes, other_start + other_codes]
    return total


def _log_normal(value: float, middle: float, width: float) -> float:
    """Log density, but for a constant, of a scale's logarithm."""
    return -(((math.log(value) - math.log(middle)) / width) ** 2) / 2
