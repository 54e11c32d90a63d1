"""Seconds of communication: ring collectives over the links, and how much of them compute hides.

A ring of n ranks over S bytes takes (n − 1) · (α + S / (n · β)) to gather or to scatter, twice that to
all-reduce, with latency α per hop and β bytes per second of the slowest link on the ring.
"""

from dataclasses import dataclass

import numpy as np

from autotune.forecast.case import Case
from autotune.forecast.compute import MicroStep
from autotune.forecast.formats import Floats
from autotune.forecast.states import Parameters, Stage
from search_spaces.columns import Mask


@dataclass(frozen=True)
class Communication:
    """Seconds that compute does not hide."""

    per_microbatch: Floats
    per_step: Floats


def communication(case: Case, stage: Stage, held: Parameters, compute: MicroStep) -> Communication:
    """What each microbatch waits for, and what the last one and the update add to it."""
    gathers = case.is_fsdp | case.is_zero3
    scatters = gathers | case.has("sharding", "zero2")
    gather = gathers * _shard_ring(case, case.bytes.compute * held.total)
    scatter = scatters * _shard_ring(case, case.bytes.reduced * held.trainable)
    in_backward = _exposed(case, gather + scatter, compute.backward)
    # The last backward hides both its own collectives and the reduction of the step.
    in_last_backward = _exposed(case, gather + scatter + _reduction(case, held), compute.backward)
    updated = case.has("sharding", "zero1", "zero2") * _shard_ring(case, case.bytes.weights * held.trainable)
    return Communication(
        per_microbatch=_exposed(case, gather, compute.forward) + in_backward + _model_parallel(case, stage),
        per_step=in_last_backward - in_backward + updated,
    )


def _reduction(case: Case, held: Parameters) -> Floats:
    """Gradients that are reduced once a step; under hsdp among the copies of a shard on other nodes."""
    gradients = case.bytes.reduced * held.trainable
    rings = case.is_ddp * 2.0 + case.has("sharding", "zero1") * 1.0
    among_peers = rings * _ring(case, case.peers, gradients, _crosses_nodes(case, case.peers))
    nodes = case.peers / case.shards
    among_nodes = case.is_hsdp * 2.0 * _ring(case, nodes, gradients / case.shards, nodes > 1)
    return among_peers + among_nodes


def _model_parallel(case: Case, stage: Stage) -> Floats:
    """What tensor, context and pipeline parallelism send for one microbatch; the layers wait for it."""
    if np.all(case.tensor * case.context * case.stages == 1):
        return np.zeros(1)
    stream = case.bytes.compute * case.shape.hidden_size * case.tokens
    # Two all-reduces in a forward, two in a backward, and a checkpointed forward's again.
    all_reduces = 2.0 * np.where(case.has("activation_checkpointing", "full"), 6.0, 4.0)
    tensor = stage.layers * all_reduces * _ring(case, case.tensor, stream, _crosses_nodes(case, np.ones(1)))
    # Keys and values travel round once in the forward, and with their gradients in the backward.
    pair = 2.0 * case.bytes.compute * case.shape.kv_size / case.tensor * case.tokens * case.context
    context = stage.layers * 3.0 * _ring(case, case.context, pair, _crosses_nodes(case, case.context))
    sends = (case.stages > 1) * 2.0 * stream / _rate(case, _crosses_nodes(case, case.peers * case.stages))
    return tensor + context + sends


def _shard_ring(case: Case, size: Floats) -> Floats:
    """Gathering or scattering `size` bytes among the ranks that share states."""
    return _ring(case, case.shards, size, _crosses_nodes(case, case.shards))


def _crosses_nodes(case: Case, ranks: Floats) -> Mask:
    """Whether a group of so many ranks, each beside its tensor-parallel ones, is larger than a node."""
    return ranks * case.tensor > case.group.gpus_per_node


def _rate(case: Case, crosses: Mask) -> Floats:
    constants, group = case.constants, case.group
    link = constants.link_efficiency * group.gpu.link_gb_per_s * 1e9
    network = constants.network_efficiency * group.network_gb_per_s * 1e9
    return np.where(crosses, network, link)


def _ring(case: Case, ranks: Floats, size: Floats, crosses: Mask) -> Floats:
    latency = np.where(crosses, case.constants.network_latency_s, case.constants.link_latency_s)
    return (ranks - 1) * (latency + size / (ranks * _rate(case, crosses)))


def _exposed(case: Case, seconds: Floats, compute: Floats) -> Floats:
    """What is left of a collective that runs behind `compute`."""
    hidden = case.constants.hidden_share
    return seconds - np.minimum(hidden * seconds, hidden * compute)
