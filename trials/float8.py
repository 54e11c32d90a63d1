"""Matmuls in float8, scaled anew at each of them (torchao); emulated where a device has no such matmul."""

import torch
from torch import nn

from trials.model import ModelUnusable

MULTIPLE = 16
"""Of both sides of a weight that float8 matmuls take."""


def use_float8(layers: nn.Module, device: torch.device) -> None:
    """Have every linear of the layers that can multiply in float8; weights and gradients stay as they are.

    Raises ModelUnusable where none can.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    chosen = [module for module in layers.modules() if _can_multiply(module)]
    if not chosen:
        raise ModelUnusable(
            f"float8 matmuls need sides of a multiple of {MULTIPLE}, which no linear here has"
        )
    convert_to_float8_training(
        layers,
        config=Float8LinearConfig(emulate=device.type == "cpu"),
        module_filter_fn=lambda module, name: module in chosen,
    )


def _can_multiply(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Linear) and module.in_features % MULTIPLE == module.out_features % MULTIPLE == 0
    )
