"""Matmuls in float8, scaled anew at each of them (torchao); emulated where a device has no such matmul."""

import torch
from torch import nn

MULTIPLE = 16
"""Of both sides of a weight that float8 matmuls take."""


def use_float8(layers: nn.Module, device: torch.device) -> None:
    """Have every linear of the layers that can multiply in float8; weights and gradients stay as they are."""
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    convert_to_float8_training(
        layers,
        config=Float8LinearConfig(emulate=device.type == "cpu"),
        module_filter_fn=lambda module, name: (
            isinstance(module, nn.Linear)
            and module.in_features % MULTIPLE == module.out_features % MULTIPLE == 0
        ),
    )
