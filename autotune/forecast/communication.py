"""Seconds of communication: rings over the links, copies over PCIe, and how much of both compute hides.

A ring of n ranks over S bytes takes (n − 1) · (α + S / (n · β)) to gather or to scatter, twice that to
all-reduce, with latency α per hop and β bytes per second of the slowest link on the ring.
"""

from dataclasses import dataclass

import numpy as np

from autotune.forecast.activations import Activations
from autotune.forecast.case import Case
from autotune.forecast.compute import MicroStep
from autotune.forecast.formats import Floats
from autotune.forecast.states import Parameters, Stage, keeps_whole, layers_alive, stored_bytes, unit_bytes
from search_spaces.columns import Mask


@dataclass(frozen=True)
class Communication:
    """Seconds that compute does not hide."""

    per_microbatch: Floats
    per_step: Floats


def communication(
    case: Case, stage: Stage, held: Parameters, acts: Activations, compute: MicroStep
) -> Communication:
    """What each microbatch waits for, and what the last one and the update add to it."""
    gathers = case.is_fsdp | case.is_zero3
    scatters = gathers | case.has("sharding", "zero2")
    layers = (held.total - held.root) / held.unit
    parameters = layers * unit_bytes(case, held, case.bytes.compute) + case.bytes.compute * held.root
    gather = gathers * _shard_ring(case, parameters)
    scatter = scatters * _shard_ring(case, case.bytes.reduced * held.trainable)
    # Whole parameters are gathered in the first forward, their gradients scattered after the last backward.
    once = keeps_whole(case)
    first, last = once * _exposed(case, gather, compute.forward), once * scatter
    gather, scatter = ~once * gather, ~once * scatter
    out, back = _copies(case, held)
    in_forward = _waited_for(case, gather, out, compute.forward)
    in_backward = _waited_for(case, gather + scatter, back, compute.backward)
    # The last backward hides both its own collectives and the reduction of the step.
    reduction = _reduction(case, held)
    in_last_backward = _waited_for(case, gather + scatter + reduction, back, compute.backward)
    updated = case.has("sharding", "zero1", "zero2") * _shard_ring(case, case.bytes.weights * held.trainable)
    return Communication(
        per_microbatch=in_forward
        + in_backward
        + _activation_copies(case, stage, acts)
        + _model_parallel(case, stage),
        per_step=first + last + in_last_backward - in_backward + updated,
    )


def _copies(case: Case, held: Parameters) -> tuple[Floats, Floats]:
    """Seconds of a microbatch's copies of offloaded parameters: in its forward, in its backward.

    They come for each of the two, and gradients go. What the update copies is counted there.
    """
    if not case.offloads_parameters.any():
        return np.zeros(1), np.zeros(1)
    parameters = case.offloads_parameters * stored_bytes(case, held) / case.shards
    gradients = case.offloads_parameters * case.bytes.gradients * held.trainable / case.shards
    return _over_pcie(case, parameters), _over_pcie(case, parameters + gradients)


def _activation_copies(case: Case, stage: Stage, acts: Activations) -> Floats:
    """Activations of the layers that are not on the device go and come back, in line with the kernels."""
    moved_layers = np.maximum(stage.layers - layers_alive(case, stage), 0)
    return _over_pcie(case, case.offloads_activations * 2.0 * acts.saved * moved_layers)


def _over_pcie(case: Case, size: Floats) -> Floats:
    return size / (case.constants.pcie_efficiency * case.group.gpu.pcie_gb_per_s * 1e9)


def _reduction(case: Case, held: Parameters) -> Floats:
    """Gradients that are reduced once a step; under hsdp among the copies of a shard on other nodes."""
    gradients = case.bytes.reduced * held.trainable
    rings = case.is_ddp * 2.0 + case.has("sharding", "zero1") * 1.0
    among_peers = rings * _ring(case, case.peers, gradients)
    nodes = case.peers / case.shards
    among_nodes = case.is_hsdp * 2.0 * _ring(case, nodes, gradients / case.shards, apart=True)
    return among_peers + among_nodes


def _model_parallel(case: Case, stage: Stage) -> Floats:
    """What tensor, context and pipeline parallelism send for one microbatch; the layers wait for it."""
    if np.all(case.tensor * case.context * case.stages == 1):
        return np.zeros(1)
    stream = case.bytes.compute * case.shape.hidden_size * case.tokens
    # Two all-reduces in a forward, two in a backward, and a checkpointed forward's again.
    all_reduces = 2.0 * np.where(case.has("activation_checkpointing", "full"), 6.0, 4.0)
    tensor = stage.layers * all_reduces * _ring(case, case.tensor, stream, beside=np.ones(1))
    # Keys and values are gathered in a forward, again where it is recomputed, and their gradients scattered.
    pair = 2.0 * case.bytes.compute * case.shape.kv_size / case.tensor * case.tokens * case.context
    context = stage.layers * (2.0 + case.checkpoints) * _ring(case, case.context, pair)
    crosses = case.peers * case.stages * case.tensor > case.group.gpus_per_node
    sends = (case.stages > 1) * 2.0 * stream / _rate(case, crosses, np.ones(1))
    return tensor + context + sends


def _shard_ring(case: Case, size: Floats) -> Floats:
    """Gathering or scattering `size` bytes among the ranks that share states."""
    return _ring(case, case.shards, size)


def _ring(
    case: Case, ranks: Floats, size: Floats, *, beside: Floats | None = None, apart: bool = False
) -> Floats:
    """Seconds to gather or scatter `size` bytes among `ranks`.

    `beside`: how many ranks of other groups sit between two of this one, the tensor-parallel ones unless
    given; `apart`: each is on a node of its own.
    """
    stride = case.tensor if beside is None else beside
    in_node = np.ones(1) if apart else np.clip(case.group.gpus_per_node // stride, 1, ranks)
    crosses = ranks > in_node
    latency = np.where(crosses, case.constants.network_latency_s, case.constants.link_latency_s)
    return (ranks - 1) * (latency + size / (ranks * _rate(case, crosses, in_node)))


def _rate(case: Case, crosses: Mask, in_node: Floats) -> Floats:
    """Bytes per second on the slowest piece of a ring with `in_node` ranks on each node.

    A GPU has a network interface of its own, and a ring that leaves the node goes through that of each of
    its ranks there side by side, as NCCL has it, but no faster than the link inside.
    """
    constants, group = case.constants, case.group
    link = constants.link_efficiency * group.gpu.link_gb_per_s * 1e9
    network = constants.network_efficiency * group.network_gb_per_s * 1e9
    return np.where(crosses, np.minimum(network * in_node, link), link)


def _waited_for(case: Case, collectives: Floats, copies: Floats, compute: Floats) -> Floats:
    """What `compute` does not hide of collectives and copies: they run side by side, unless PCIe is the one
    wire for both.
    """
    if case.group.gpu.links_over_pcie:
        return _exposed(case, collectives + copies, compute)
    return np.maximum(_exposed(case, collectives, compute), _exposed(case, copies, compute))


def _exposed(case: Case, seconds: Floats, compute: Floats) -> Floats:
    """What is left of a collective that runs behind `compute`."""
    hidden = case.constants.hidden_share
    return seconds - np.minimum(hidden * seconds, hidden * compute)
