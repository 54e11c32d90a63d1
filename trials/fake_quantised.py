"""Quantisation-aware training: linears that round their weights in the forward, and train them."""

import torch
from torch import nn

from trials.contract.config import QuantizationAware
from trials.model import ModelUnusable

GROUP = 32
"""Weights of a row that share a scale in four bits: the smallest that int4 kernels take, so that it divides
most rows."""


def fake_quantise(layers: nn.Module, bits: QuantizationAware) -> None:
    """Have every linear of the layers round its weights as when deployed; gradients pass unrounded.

    Raises ModelUnusable where four bits have no linear whose rows divide into groups.
    """
    from torchao.quantization import Int4WeightOnlyConfig, quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    config = (
        QATConfig(Int4WeightOnlyConfig(group_size=GROUP), step="prepare")
        if bits == "int4"
        else QATConfig(
            weight_config=IntxFakeQuantizeConfig(torch.int8, granularity="per_channel"), step="prepare"
        )
    )
    grouped = GROUP if bits == "int4" else 1
    chosen = [m for m in layers.modules() if isinstance(m, nn.Linear) and m.in_features % grouped == 0]
    if not chosen:
        raise ModelUnusable(f"no linear of the layers has rows of a multiple of {grouped} weights to round")
    quantize_(layers, config, filter_fn=lambda module, name: module in chosen)
