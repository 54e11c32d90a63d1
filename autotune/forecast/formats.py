"""Bytes per number: what each engine keeps at each precision, and what each optimizer adds."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from types import MappingProxyType
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from trials.contract.capabilities import ENGINE_OF_SHARDING, EngineName
from trials.contract.config import BaseWeights, Optimizer, Precision, Sharding

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

HALF, SINGLE, AUTOCAST = range(3)
"""How a layer computes: in two bytes, in four, or from four-byte weights cast to two."""


@dataclass(frozen=True)
class NumberFormat:
    """Bytes per parameter."""

    weights: int
    gradients: int
    master: int
    """The optimizer's own copy of the weights; 0 where it updates them in place."""
    state: int
    """Of each moment the optimizer keeps."""
    compute: int
    """What the matmuls read, and what a sharded engine gathers."""
    reduced: int
    """What gradients are summed over ranks in."""
    mode: int
    """HALF, SINGLE or AUTOCAST."""


class FormatColumns(NamedTuple):
    """NumberFormat's fields for many configurations, arrays of shape (n,) or (1,)."""

    weights: Floats
    gradients: Floats
    master: Floats
    state: Floats
    compute: Floats
    reduced: Floats
    mode: Floats


_NATIVE_AUTOCAST = NumberFormat(4, 4, 0, 4, 2, 4, AUTOCAST)
_FSDP_MIXED = NumberFormat(4, 4, 0, 4, 2, 4, HALF)
_ZERO_MIXED = NumberFormat(2, 2, 4, 4, 2, 2, HALF)
_FP32 = NumberFormat(4, 4, 0, 4, 4, 4, SINGLE)
_PURE = NumberFormat(2, 2, 0, 2, 2, 2, HALF)

FORMATS: Mapping[tuple[EngineName, Precision], NumberFormat] = MappingProxyType(
    {
        ("native", "fp32"): _FP32,
        ("native", "fp16"): _NATIVE_AUTOCAST,
        ("native", "bf16"): _NATIVE_AUTOCAST,
        ("native", "bf16_pure"): _PURE,
        ("native", "fp8"): _NATIVE_AUTOCAST,
        ("fsdp", "fp32"): _FP32,
        ("fsdp", "fp16"): _FSDP_MIXED,
        ("fsdp", "bf16"): _FSDP_MIXED,
        ("fsdp", "bf16_pure"): _PURE,
        ("fsdp", "fp8"): _FSDP_MIXED,
        # DeepSpeed's optimizer clones its partition at every precision, so there is always a master.
        ("zero", "fp32"): NumberFormat(4, 4, 4, 4, 4, 4, SINGLE),
        ("zero", "fp16"): _ZERO_MIXED,
        ("zero", "bf16"): _ZERO_MIXED,
        ("zero", "bf16_pure"): NumberFormat(2, 2, 2, 2, 2, 2, HALF),
        ("zero", "fp8"): _ZERO_MIXED,
    }
)


RATES: Mapping[Precision, tuple[str, ...]] = MappingProxyType(
    {
        "fp32": ("fp32",),
        "fp16": ("fp16", "bf16", "fp32"),
        "bf16": ("bf16", "fp16", "fp32"),
        "bf16_pure": ("bf16", "fp16", "fp32"),
        "fp8": ("fp8", "bf16", "fp16", "fp32"),
    }
)
"""Precision → the device's rates to take, the first that it states."""


@dataclass(frozen=True)
class OptimizerStates:
    moments: int
    """Copies of the parameters, in the format's `state` bytes."""
    other_bytes: float = 0.0
    """Per parameter, whatever the format."""


OPTIMIZERS: Mapping[Optimizer, OptimizerStates] = MappingProxyType(
    {
        "adamw": OptimizerStates(2),
        "adam": OptimizerStates(2),
        "lion": OptimizerStates(1),
        # Without momentum.
        "sgd": OptimizerStates(0),
        # Two moments of a byte, and two fp32 scales per block of 256.
        "adamw_8bit": OptimizerStates(0, 2 + 8 / 256),
        # One row and one column of fp32 per matrix: under a thousandth of a byte from 4096 up.
        "adafactor": OptimizerStates(0, 0.01),
    }
)

FROZEN_BYTES: Mapping[BaseWeights, float] = MappingProxyType({"int8": 1.0, "int4": 0.5 + 4 / 64})
"""Bytes of a quantised base weight; int4 has an fp32 scale per 64. `native` is as the format stores it."""


def format_table() -> Floats:
    """NumberFormat's fields for each sharding × precision, in the order of the choices; shape (pairs, 7)."""
    return np.array(
        [
            astuple(FORMATS[ENGINE_OF_SHARDING[sharding], precision])
            for sharding in get_args(Sharding)
            for precision in get_args(Precision)
        ],
        dtype=np.float64,
    )
