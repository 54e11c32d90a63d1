"""Weights in another format than they are stored in: what autocast casts, what is fake-quantised."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from autotune.forecast.case import Case
from autotune.forecast.formats import AUTOCAST, HALF, SINGLE, Floats
from autotune.forecast.states import Parameters, Stage

FAKE_QUANTISED: Mapping[int, Mapping[str, float]] = MappingProxyType(
    {
        HALF: {"int8": 6.0, "int4": 18.5},
        SINGLE: {"int8": 8.0, "int4": 16.5},
        AUTOCAST: {"int8": 4.0, "int4": 12.5},
    }
)
"""Bytes that torchao 0.18 keeps of each weight of a fake-quantised linear for its backward, beside what a
plain one keeps. Traced."""


class Copies(NamedTuple):
    """Bytes of weights in another format, beside those that are stored."""

    of_layers: Floats
    """In the graph until the backward of their layer."""
    of_one_layer: Floats
    of_head: Floats
    cached: Floats
    """Held until the forward ends, and no longer."""


def weight_copies(case: Case, stage: Stage, held: Parameters) -> Copies:
    """What autocast casts to two bytes, and weights that are fake-quantised in the compute format.

    Without checkpointing the graph keeps them; with it, only autocast's cache has them, until the forward
    leaves it.
    """
    cast = 2.0 * case.autocasts
    # Float8 linears read the weights themselves, and keep those.
    of_linears = cast * ~case.has("precision", "fp8") * case.sizes.cast_linear / case.tensor
    one = of_linears + fake_quantised(case)
    return Copies(
        of_layers=stage.layers * one * ~case.checkpoints,
        of_one_layer=one,
        of_head=cast * held.vocabulary * stage.has_loss,
        cached=stage.layers * of_linears * case.checkpoints,
    )


def fake_quantised(case: Case) -> Floats:
    """What quantisation-aware training keeps of a layer's weights on their way to what it multiplies with."""
    per_weight = np.array(
        [[FAKE_QUANTISED[mode][bits] for bits in ("int8", "int4")] for mode in (HALF, SINGLE, AUTOCAST)]
    )[case.mode]
    bits = case.looked_up("quantization_aware", {"none": 0, "int8": 1, "int4": 2}).astype(np.intp)
    kept = np.where(bits == 0, 0.0, np.where(bits == 1, per_weight[:, 0], per_weight[:, 1]))
    return kept * case.sizes.cast_linear / case.tensor
