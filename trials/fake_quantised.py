"""Quantisation-aware training: linears that round their weights in the forward, and train them."""

import torch
from torch import nn

from trials.contract.config import QuantizationAware

GROUP = 32
"""Weights of a row that share a scale in four bits: the smallest that int4 kernels take, so that it divides
most rows."""


def fake_quantise(layers: nn.Module, bits: QuantizationAware) -> None:
    """Have every linear of the layers round its weights as when deployed; gradients pass unrounded."""
    from torchao.quantization import Int4WeightOnlyConfig, quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    config = (
        QATConfig(Int4WeightOnlyConfig(group_size=GROUP), step="prepare")
        if bits == "int4"
        else QATConfig(
            weight_config=IntxFakeQuantizeConfig(torch.int8, granularity="per_channel"), step="prepare"
        )
    )
    quantize_(layers, config, filter_fn=lambda module, name: _divides(module))


def _divides(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module.in_features % GROUP == 0
