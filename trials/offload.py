"""Activations in CPU memory between the forward and the backward of a layer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

LEAST_BYTES = 1 << 20
"""Smaller tensors are not worth a copy."""

Packed = tuple[torch.device, torch.Tensor]


def offload_activations(layers: nn.ModuleList | nn.Sequential) -> None:
    """Have what each layer saves for its backward copied to pinned memory, and back when it is asked for.

    Parameters stay where they are.
    """
    for layer in layers:
        layer.forward = _offloading(layer, layer.forward)


def _offloading(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        # By their shapes, since autocast and ZeRO-3 make copies of them.
        shapes = {parameter.shape for parameter in layer.parameters()}
        own = shapes | {shape[::-1] for shape in shapes}

        def pack(tensor: torch.Tensor) -> Packed:
            if tensor.nbytes < LEAST_BYTES or tensor.shape in own or tensor.is_cpu:
                return tensor.device, tensor
            kept = torch.empty(tensor.size(), dtype=tensor.dtype, pin_memory=True)
            return tensor.device, kept.copy_(tensor, non_blocking=True)

        with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
            return forward(*args, **kwargs)

    return wrapped


def _unpack(packed: Packed) -> torch.Tensor:
    device, tensor = packed
    return tensor.to(device, non_blocking=True)
