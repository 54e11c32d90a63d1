"""Activations in CPU memory between the forward and the backward of a layer."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

LEAST_BYTES = 1 << 20
"""Smaller tensors are not worth a copy."""

Identity = tuple[int, int | torch.SymInt, torch.Size, tuple[int, ...], torch.dtype, int]
Copier = Callable[[torch.Tensor], torch.Tensor]


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

        def stays(tensor: torch.Tensor) -> bool:
            return tensor.nbytes < LEAST_BYTES or tensor.shape in own or tensor.is_cpu

        store = OffloadedTensors(stays, _to_pinned_memory)
        with torch.autograd.graph.saved_tensors_hooks(store.pack, unpack):
            return forward(*args, **kwargs)

    return wrapped


def _to_pinned_memory(tensor: torch.Tensor) -> torch.Tensor:
    kept = torch.empty(tensor.size(), dtype=tensor.dtype, pin_memory=True)
    return kept.copy_(tensor, non_blocking=True)


@dataclass
class Packed:
    """A saved tensor, or its copy elsewhere."""

    tensor: torch.Tensor
    device: torch.device
    """Where it is read."""
    restored: "weakref.ref[torch.Tensor] | None" = None
    """What the last reader was given, which another shares while it lives."""


@dataclass
class OffloadedTensors:
    """What one forward saved; several operators that save one tensor share its copy."""

    stays: Callable[[torch.Tensor], bool]
    copy: Copier
    _packed: dict[Identity, tuple["weakref.ref[torch.UntypedStorage]", Packed]] = field(default_factory=dict)

    def pack(self, tensor: torch.Tensor) -> Packed:
        if self.stays(tensor):
            return Packed(tensor, tensor.device)
        storage, identity = tensor.untyped_storage(), _identity(tensor)
        known, packed = self._packed.get(identity, (None, None))
        if known is None or packed is None or known() is not storage:  # or its address is another's by now
            packed = Packed(self.copy(tensor), tensor.device)
            self._packed[identity] = weakref.ref(storage), packed
        return packed


def unpack(packed: Packed) -> torch.Tensor:
    restored = packed.restored() if packed.restored is not None else None
    if restored is None:
        restored = packed.tensor.to(packed.device, non_blocking=True)
        packed.restored = weakref.ref(restored)
    return restored


def _identity(tensor: torch.Tensor) -> Identity:
    return (
        tensor.untyped_storage()._cdata,
        tensor.storage_offset(),
        tensor.size(),
        tensor.stride(),
        tensor.dtype,
        tensor._version,
    )
