"""CPU memory of a node that its ranks' offloaded states and activations take."""

import numpy as np

from autotune.forecast.activations import Activations
from autotune.forecast.buffers import way_back
from autotune.forecast.case import Case
from autotune.forecast.formats import Floats
from autotune.forecast.memory import MOST_BYTES
from autotune.forecast.states import layers_alive, optimizer_bytes, parameters, stages, stored_bytes

DEEPSPEED_GRADIENT_BYTES = 4.0
"""Of a parameter whose optimizer DeepSpeed offloads, in pinned memory: fp32 at every precision
(`fp32_partitioned_groups_flat` and its gradients)."""


def host_bytes(case: Case, acts: Activations) -> Floats:
    """Of all ranks of a node together: what they offload, while training is under way."""
    if not (case.offloads_optimizer | case.offloads_activations).any():
        return np.zeros(1)
    stage = stages(case)[-1]  # of a pipeline the first, with the most microbatches in flight
    held = parameters(case, stage)
    own = held.trainable / case.shards
    gradients = np.where(case.is_zero, DEEPSPEED_GRADIENT_BYTES, case.bytes.gradients)
    optimizer = case.offloads_optimizer * (case.bytes.master + gradients + optimizer_bytes(case)) * own
    optimizer = optimizer + case.offloads_optimizer * way_back(case, held)
    weights = case.offloads_parameters * stored_bytes(case, held)
    moved_layers = stage.layers - layers_alive(case, stage)
    activations = stage.in_flight * moved_layers * acts.saved
    ranks = min(case.group.gpus_per_node, case.world_size)
    of_node: Floats = ranks * np.rint(optimizer + weights / case.shards + activations)
    return np.minimum(of_node, MOST_BYTES)
