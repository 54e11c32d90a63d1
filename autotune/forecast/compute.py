"""Seconds of compute: a roofline over the operators of a layer, the loss and the optimizer.

Model FLOPs, the convention that MFU is stated in: 6 per token and matmul parameter (the head among them,
a separate input embedding not; of several experts those that a token passes), plus 12 × layers × query
size × sequence for attention, halved since a causal one has to look at half. Recomputation counts nothing.
"""

from dataclasses import dataclass

import numpy as np

from autotune.forecast.activations import Activations, masked
from autotune.forecast.case import Case
from autotune.forecast.formats import SINGLE, Floats
from autotune.forecast.layers import num_linears
from autotune.forecast.states import Parameters, Stage, States, quantised_bytes

BACKWARD_ATTENTION = 2.5
"""FLOPs of fused attention's backward over its forward: five matmuls, one of them recomputed, for two."""


def model_flops_per_token(case: Case) -> Floats:
    shape, sizes = case.shape, case.sizes
    # A frozen weight has no gradient to compute.
    per_weight = np.where(case.is_lora, 4.0, 6.0)
    matmul = per_weight * (shape.num_layers * sizes.active_linear + sizes.vocabulary)
    return matmul + 6.0 * shape.num_layers * shape.query_size * case.sequence


@dataclass(frozen=True)
class MicroStep:
    """Seconds of one microbatch on one rank, without communication."""

    forward: Floats
    backward: Floats
    """With what checkpointing recomputes."""


def micro_step(case: Case, stage: Stage, acts: Activations) -> MicroStep:
    """The device works, or waits for the process to start its kernels, whichever takes longer."""
    layer_forward, layer_backward = _layer(case, acts)
    loss_forward, loss_backward = _loss(case)
    launched_forward = stage.layers * _launched(case) * case.constants.launch_s
    again = case.looked_up("activation_checkpointing", {"none": 0.0, "selective": 1.0, "full": 1.0})
    return MicroStep(
        forward=np.maximum(stage.layers * layer_forward + loss_forward, launched_forward),
        backward=np.maximum(stage.layers * layer_backward + loss_backward, (2.0 + again) * launched_forward),
    )


def _kernels(case: Case) -> Floats:
    """Of one forward of a layer; its backward has twice as many."""
    constants = case.constants
    return np.where(
        case.has("compile", True), constants.compiled_kernels_per_layer, constants.kernels_per_layer
    )


def _launched(case: Case) -> Floats:
    """Kernels of one forward of a layer with the small ones of its adapters and casts."""
    constants = case.constants
    casts = case.has("precision", "fp8") | ~case.has("quantization_aware", "none")
    per_linear = case.is_lora * constants.kernels_per_adapter + casts * constants.kernels_per_cast_linear
    more = ~case.has("compile", True) * num_linears(case.shape) * per_linear
    return _kernels(case) + more


def _layer(case: Case, acts: Activations) -> tuple[Floats, Floats]:
    constants, shape, sizes = case.constants, case.shape, case.sizes
    # Matmuls wait for arithmetic, or for their weights when there are few tokens to multiply with.
    products = case.tokens / case.tensor
    arithmetic = _of_linears(case, products * sizes.active_dense)
    if sizes.active_experts:
        efficiency = np.where(case.autocasts, constants.fp32_efficiency, _matmul_efficiency(case))
        arithmetic = arithmetic + 2.0 * products * sizes.active_experts / (efficiency * case.grouped_flops)
    matmul = np.maximum(arithmetic, case.bytes.compute * sizes.linear / case.tensor / case.bandwidth)
    scores = 4.0 * case.tokens * _keys(case) * shape.query_size / case.tensor
    shared = np.where(case.context > 1, constants.shared_attention_efficiency, 1.0)
    efficiency = np.where(
        case.has("attention", "eager"), _matmul_efficiency(case), shared * constants.attention_efficiency
    )
    attention = scores / (efficiency * case.unconverted_flops)
    passes = np.where(
        case.has("compile", True), constants.compiled_elementwise_passes, constants.elementwise_passes
    )
    elementwise = (passes * acts.touched + _score_traffic(case) + _adapter_traffic(case)) / case.bandwidth
    casts = 6.0 * case.autocasts * sizes.linear / case.tensor / case.bandwidth
    latency = _kernels(case) * constants.kernel_latency_s

    # Each matmul has its frozen weights written out in the compute format.
    written_out = ~case.has("base_weights", "native") * (quantised_bytes(case) + case.bytes.compute)
    dequantising = written_out * sizes.linear / case.tensor / case.bandwidth

    forward = matmul + attention + elementwise + casts + dequantising + latency
    recomputed = case.looked_up("activation_checkpointing", {"none": 0.0, "selective": 0.5, "full": 1.0})
    again = recomputed * (matmul + casts + dequantising) + (recomputed == 1.0) * attention
    again = again + (recomputed > 0) * (elementwise + latency)
    matmuls = np.where(case.is_lora, 1.0, 2.0)
    backward = matmuls * matmul + dequantising
    backward = backward + BACKWARD_ATTENTION * attention + 2.0 * (elementwise + latency)
    return forward, backward + again


def _score_traffic(case: Case) -> Floats:
    """Bytes that the scores of eager attention move in a forward, beyond the passes over what it keeps."""
    scores = case.tokens * case.sequence * case.shape.num_heads / case.tensor
    uncompiled = case.has("attention", "eager") & ~case.has("compile", True)
    return uncompiled * case.constants.score_traffic_bytes * scores


def _adapter_traffic(case: Case) -> Floats:
    """Bytes that LoRA adapters move in a forward."""
    if not case.is_lora.any():
        return np.zeros(1)
    written = case.constants.adapter_passes * case.sizes.linear_outputs
    read = (1.0 + 3.0 * case.casts_adapters) * case.sizes.linear_inputs
    return case.is_lora * case.bytes.compute * (written + read) * case.tokens / case.tensor


def _keys(case: Case) -> Floats:
    """Keys that a query is multiplied with, in the mean of layers and queries.

    A causal kernel skips the later ones; one that is given a mask, as PyTorch's is for a window, skips
    nothing, and neither does attention that is written out. FlashAttention skips what a window leaves out.
    """
    everything = case.sequence
    causal = _seen(case, everything)
    if case.shape.windowed_layers:
        window = np.minimum(case.sequence, case.shape.sliding_window or np.inf)
        windowed = np.where(
            case.has("attention", "flash"), _seen(case, window), np.where(masked(case), everything, causal)
        )
        share = case.shape.windowed_layers / case.shape.num_layers
        causal = share * windowed + (1.0 - share) * causal
    return np.where(case.has("attention", "eager"), everything, causal)


def _seen(case: Case, window: Floats) -> Floats:
    """Keys up to a query's own, `window` at most, in the mean of queries; each rank has as many late ones."""
    sums: Floats = window**2 / 2.0 + window * (case.sequence - window)
    return sums / case.sequence


def _loss(case: Case) -> tuple[Floats, Floats]:
    """The head and the cross-entropy; with a pipeline its last stage is the one all wait for."""
    matmul = _matmul(case, case.tokens * case.sizes.vocabulary / case.tensor)
    entries = case.tokens * case.shape.vocab_size / case.tensor
    traffic = case.constants.loss_traffic_bytes / 2 * entries / case.bandwidth
    return matmul + traffic, 2.0 * matmul + traffic


def _of_linears(case: Case, products: Floats) -> Floats:
    """Seconds of multiplying and adding `products` pairs of numbers in a layer's linears.

    They alone are converted to float8: experts are stacked parameters, and the head is in no layer.
    """
    efficiency = np.where(
        case.has("precision", "fp8"), case.constants.fp8_efficiency, _matmul_efficiency(case)
    )
    return 2.0 * products / (efficiency * case.peak_flops)


def _matmul(case: Case, products: Floats) -> Floats:
    """The same where nothing is converted."""
    return 2.0 * products / (_matmul_efficiency(case) * case.unconverted_flops)


def _matmul_efficiency(case: Case) -> Floats:
    constants = case.constants
    return np.where(case.mode == SINGLE, constants.fp32_efficiency, constants.matmul_efficiency)


def gradient_accumulation(case: Case, held: Parameters) -> Floats:
    """Seconds per microbatch of writing gradients and, from the second on, adding them up."""
    passes = np.where(case.accumulation > 1, 3.0, 1.0)
    return passes * case.bytes.gradients * held.trainable / case.bandwidth


def optimizer_step(case: Case, held: Parameters, state: States) -> Floats:
    """Seconds of clipping and updating; on the CPU of the node, with its copies, where it is offloaded."""
    constants, gpu = case.constants, case.group.gpu
    own = held.trainable / case.shards
    # Gradients are read for the norm, scaled in place and read again; the rest is read and written.
    traffic = 4.0 * case.bytes.gradients * own + 2.0 * (
        state.optimizer + state.master + case.bytes.weights * own
    )
    on_device = traffic / case.bandwidth
    if not case.offloads_optimizer.any():
        return on_device
    ranks = min(case.group.gpus_per_node, case.world_size)
    on_host = own * ranks / constants.host_adam_parameters_per_s
    # Offloaded parameters and their gradients move with each microbatch.
    moved = ~case.offloads_parameters * (case.bytes.gradients + case.bytes.weights) * own
    copies = moved / (constants.pcie_efficiency * gpu.pcie_gb_per_s * 1e9)
    return np.where(case.offloads_optimizer, on_host + copies, on_device)
