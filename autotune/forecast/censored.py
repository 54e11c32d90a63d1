"""Lower bounds among what is observed, by expectation propagation.

What is known of a bounded value is that it is at least its bound. Its site stands for that: a normal
observation that gives the value the mean and the variance which the normal of all others has when it is cut
off at the bound (Minka 2001; Rasmussen and Williams, Gaussian Processes for Machine Learning, 3.6). All sites
are moved at once, and by a part of the way, which keeps them from overshooting together.
"""

import math
from dataclasses import replace

import numpy as np
from scipy.special import log_ndtr

from autotune.forecast.formats import Floats
from autotune.forecast.regression import Pool, Regression

SWEEPS = 30
"""At most; a handful is enough but for bounds that contradict what was observed."""
STEP = 0.8
"""Share of the way to its new place that a site is moved."""
SETTLED = 1e-4
"""Of the standard deviations of what is believed: sites that move no value by more have arrived."""
LEAST_PRECISION = 1e-6
"""Of a site: a bound that teaches nothing, since the value is far above it anyway."""


def bounded(pool: Pool, bounds: Floats, scale: Floats, own: float) -> Pool:
    """The pool with the sites of the bounds as further observations.

    `bounds`: shape (m,), −inf where a configuration has none; `scale` and `own` as of a Regression.
    """
    rows = np.flatnonzero(np.isfinite(bounds))
    at_first = ((pool.features[rows] * scale) ** 2).sum(axis=1) + own**2
    precision, weighted = np.zeros(len(bounds)), np.zeros(len(bounds))
    believed = pool
    for _ in range(SWEEPS):
        mean, variance = Regression.of(believed, scale, own).observed(rows)
        # Without its own site a value is known less well, but never less than before anything was.
        others = np.maximum(1 / variance - precision[rows], 1 / at_first)
        mean_of_others = (mean / variance - weighted[rows]) / others
        sites = _sites(mean_of_others, 1 / np.sqrt(others), bounds[rows])
        sharper, heavier = STEP * (sites[0] - precision[rows]), STEP * (sites[1] - weighted[rows])
        precision[rows] += sharper
        weighted[rows] += heavier
        believed = replace(pool, precision=pool.precision + precision, weighted=pool.weighted + weighted)
        if np.abs((heavier - mean * sharper) * np.sqrt(variance)).max() < SETTLED:
            break
    return believed


def _sites(mean: Floats, spread: Floats, bound: Floats) -> tuple[Floats, Floats]:
    """Precisions, and precisions times values, of the observations that turn normals into those cut off at
    their bounds.
    """
    above = (mean - bound) / spread
    ratio = np.exp(-(above**2) / 2 - math.log(2 * math.pi) / 2 - log_ndtr(above))
    cut_mean = mean + spread * ratio
    share = np.maximum(1 - ratio * (above + ratio), 1e-9)
    cut_precision = 1 / (spread**2 * share)
    precision = np.maximum(cut_precision - 1 / spread**2, LEAST_PRECISION)
    return precision, cut_mean * cut_precision - mean / spread**2
