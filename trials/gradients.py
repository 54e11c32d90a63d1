"""The norm of all gradients of a model, wherever its parts are, and clipping by it."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

EPSILON = 1e-6
"""torch.nn.utils.clip_grad_norm_'s."""


def clip_gradients(
    parameters: Sequence[nn.Parameter], most: float, stages: dist.ProcessGroup | None = None
) -> torch.Tensor:
    """Scale gradients so that their norm is at most `most`; return the norm before, the same on every rank.

    Unlike torch's own it takes plain and distributed tensors together. `stages`: the ranks that have the
    other stages of a pipeline.
    """
    squares: dict[DeviceMesh | None, list[torch.Tensor]] = {}
    local_gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        mesh, local, copies = _local_part(parameter)
        local_gradients.append(local)
        squares.setdefault(mesh, []).append(
            torch.linalg.vector_norm(local, dtype=torch.float32) ** 2 / copies
        )
    total = torch.zeros((), device=local_gradients[0].device)
    for mesh, of_mesh in squares.items():
        summed = torch.stack(of_mesh).sum()
        if mesh is not None:
            for dimension in range(mesh.ndim):
                if mesh.size(dimension) > 1:
                    dist.all_reduce(summed, group=mesh.get_group(dimension))
        total += summed
    if stages is not None:
        dist.all_reduce(total, group=stages)
    norm = total.sqrt()
    torch._foreach_mul_(local_gradients, (most / (norm + EPSILON)).clamp(max=1.0))
    return norm


def _local_part(parameter: nn.Parameter) -> tuple[DeviceMesh | None, torch.Tensor, int]:
    """This rank's part of a gradient, the ranks it is spread over, and on how many of them each number is."""
    gradient = parameter.grad
    assert gradient is not None
    if not isinstance(gradient, DTensor):
        return None, gradient, 1
    assert isinstance(parameter, DTensor)
    if gradient.placements != parameter.placements:  # sums that are still to be made
        gradient = gradient.redistribute(placements=parameter.placements)
        parameter.grad = gradient
    mesh, copies = gradient.device_mesh, 1
    for dimension, placement in enumerate(gradient.placements):
        copies *= mesh.size(dimension) if placement.is_replicate() else 1
    return mesh, gradient.to_local(), copies
