"""Activations in CPU memory between the forward and the backward of a layer."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

LEAST_BYTES = 1 << 20
"""Smaller tensors are not worth a copy."""

Identity = tuple[object, ...]
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


@dataclass(frozen=True)
class Packed:
    """A saved tensor, or its copy elsewhere."""

    tensor: torch.Tensor
    device: torch.device
    """Where it is read."""


@dataclass
class OffloadedTensors:
    """What one forward saved; operators that save the same numbers share one copy, however they see them."""

    stays: Callable[[torch.Tensor], bool]
    copy: Copier
    _copies: dict[Identity, tuple["weakref.ref[torch.UntypedStorage]", torch.Tensor]] = field(
        default_factory=dict
    )

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch has not annotated it
    def pack(self, tensor: torch.Tensor) -> Packed:
        if self.stays(tensor):
            return Packed(tensor, tensor.device)
        storage, identity = tensor.untyped_storage(), _identity(tensor)
        known, copy = self._copies.get(identity, (None, None))
        if known is None or copy is None or known() is not storage:  # or its address is another's by now
            copy = self.copy(tensor)
            self._copies[identity] = weakref.ref(storage), copy
        return Packed(copy.view(tensor.size()), tensor.device)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch has not annotated it
def unpack(packed: Packed) -> torch.Tensor:
    return packed.tensor.to(packed.device, non_blocking=True)


def _identity(tensor: torch.Tensor) -> Identity:
    """Equal for tensors that have the same numbers in the same order."""
    layout: Identity = (tensor.numel(),)
    if not tensor.is_contiguous():
        layout = (tensor.size(), tensor.stride())
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tensor.dtype, tensor._version, *layout
