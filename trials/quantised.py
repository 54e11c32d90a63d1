"""Linears whose frozen weights are stored in eight or four bits, and widened when a matmul reads them.

Packed weights and their scales are plain parameters without gradient, so every engine moves, shards and
gathers them as it does any other, in the bytes that they take. Scales are stored by their bits, as int32,
lest mixed precision cast them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from trials.contract.config import BaseWeights

BLOCK = 64
"""Weights that share a scale in four bits: QLoRA's (Dettmers et al. 2023)."""
LARGEST_INT8 = 127


class FrozenLinear(nn.Linear, ABC):
    """A linear of which only the bias, if it has one, is stored as it is. Subclasses say how the rest is."""

    scale_bits: nn.Parameter

    def __init__(self, linear: nn.Linear) -> None:
        """In place of `linear`, whose weight is packed, unless it is on the meta device."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        for name, value in self.packed(linear.weight.detach()).items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    @property
    def scale(self) -> torch.Tensor:
        """In fp32."""
        return self.scale_bits.view(torch.float32)

    def full_shapes(self) -> dict[str, torch.Size]:
        """Of the parameters that a plain linear has."""
        shapes = {"weight": torch.Size((self.out_features, self.in_features))}
        return shapes if self.bias is None else {**shapes, "bias": self.bias.shape}

    @abstractmethod
    def packed(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is stored of a weight of shape (out_features, in_features)."""

    @abstractmethod
    def widened(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight again, shape (out_features, in_features)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled(input.device.type):
            input = input.to(torch.get_autocast_dtype(input.device.type))
        apply: Any = _ReadTwice.apply  # which torch has not annotated
        output: torch.Tensor = apply(input, self)
        return output if self.bias is None else output + self.bias.to(output.dtype)


class _ReadTwice(torch.autograd.Function):
    """A matmul that widens its weight in the forward and again in the backward, and keeps neither."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, linear: FrozenLinear) -> torch.Tensor:
        ctx.linear = linear
        return input @ linear.widened(input.dtype).t()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient @ ctx.linear.widened(gradient.dtype), None


class Int8Linear(FrozenLinear):
    """A signed byte a weight, and one fp32 scale a row."""

    def packed(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        scale = weight.float().abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST_INT8
        codes = torch.round(weight.float() / scale[:, None])
        return {"weight": codes.to(torch.int8), "scale_bits": scale.view(torch.int32)}

    def widened(self, dtype: torch.dtype) -> torch.Tensor:
        return self.weight.to(dtype).mul_(self.scale[:, None].to(dtype))


class Int4Linear(FrozenLinear):
    """NF4 by bitsandbytes: four bits a weight, and one fp32 scale for each 64."""

    def packed(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        rows, columns = weight.shape
        if weight.is_meta:
            return {
                "weight": weight.new_empty((rows, columns // 2), dtype=torch.uint8),
                "scale_bits": weight.new_empty(-(-weight.numel() // BLOCK), dtype=torch.int32),
            }
        from bitsandbytes.functional import quantize_4bit

        codes, state = quantize_4bit(weight.contiguous(), blocksize=BLOCK, quant_type="nf4")
        return {"weight": codes.view(rows, columns // 2), "scale_bits": state.absmax.view(torch.int32)}

    def widened(self, dtype: torch.dtype) -> torch.Tensor:
        from bitsandbytes.functional import QuantState, dequantize_4bit

        state = QuantState(
            absmax=self.scale,
            shape=torch.Size((self.out_features, self.in_features)),
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=dtype,
        )
        widened: torch.Tensor = dequantize_4bit(self.weight.view(-1, 1), state)
        return widened


STORED: Mapping[BaseWeights, type[FrozenLinear]] = MappingProxyType({"int8": Int8Linear, "int4": Int4Linear})


def quantise(layers: nn.Module, base_weights: BaseWeights) -> None:
    """Put a frozen linear in the place of each linear of the layers; `base_weights` is not `native`."""
    linears = [
        (owner, name, child)
        for owner in layers.modules()
        for name, child in owner.named_children()
        if isinstance(child, nn.Linear)
    ]
    for owner, name, linear in linears:
        setattr(owner, name, STORED[base_weights](linear))
