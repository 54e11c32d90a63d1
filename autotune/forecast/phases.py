"""What each phase of an optimizer step needs beside weights, master and optimizer states."""

from typing import NamedTuple

import numpy as np

from autotune.forecast.activations import Activations
from autotune.forecast.case import Case
from autotune.forecast.formats import SINGLE, Floats
from autotune.forecast.states import Parameters, Stage, States, shards_gradients
from trials.contract.constants import engine_constants


class Phase(NamedTuple):
    """Bytes; `transient` holds loss, gathered parameters, buckets and temporaries."""

    gradients: Floats
    activations: Floats
    transient: Floats


def phases(case: Case, stage: Stage, held: Parameters, state: States, acts: Activations) -> tuple[Phase, ...]:
    """From the end of the forward to the optimizer step, in order; one of them has the peak."""
    kept, cached = _weight_copies(case, stage, held)
    # All layers of each microbatch in flight wait, but for the one that is going backward.
    layers = _layers_alive(case, stage) * acts.saved
    waiting = (stage.in_flight - 1) * layers
    saved = waiting + layers + kept
    final_norm = acts.final_norm * stage.has_loss

    # DDP's buckets are allocated once, and gradients are views into them; else they appear as the backward
    # comes to them, and go with the optimizer step.
    persist = (case.accumulation > 1) | (case.is_ddp & (case.peers > 1))
    before = state.gradients * persist
    head = np.where(case.is_lora, 0.0, held.vocabulary * stage.has_loss)
    appear = ~(persist | shards_gradients(case)) * case.bytes.gradients
    but_first_layer = appear * (held.trainable_unit * (stage.layers - 1) + head)

    loss_forward, loss_backward = _loss(case, stage)
    gathered_in_loss, gathered_in_layer, gathered_at_end = _gathered(case, held, head)
    bucket = _bucket(case)
    layer = acts.transient + _down_projection(case) + _attention_transient(case)
    head_norm = case.constants.head_norm_transient_bytes * case.shape.hidden_size * case.tokens
    twice = persist | case.is_zero | case.shape.tied_embeddings
    return (
        Phase(before, saved + cached + final_norm, loss_forward + gathered_in_loss),
        Phase(before, saved + final_norm, loss_backward + gathered_in_loss + bucket),
        Phase(
            before + appear * head,
            saved + acts.recomputed,
            np.maximum(layer, head_norm * stage.has_loss) + gathered_in_layer + bucket,
        ),
        Phase(
            np.where(appear > 0, but_first_layer, state.gradients),
            waiting + acts.saved + kept / stage.layers + acts.recomputed,
            layer + gathered_in_layer + bucket,
        ),
        Phase(
            state.gradients,
            waiting,
            twice * _embedding_gradient(case, held) + gathered_at_end + bucket,
        ),
        Phase(state.gradients, np.zeros(1), _step_temporary(case, held)),
    )


def _layers_alive(case: Case, stage: Stage) -> Floats:
    """Layers whose activations are on the device after a forward."""
    few = np.minimum(stage.layers, case.constants.offloaded_layers_alive)
    return np.where(case.has("offload", "activations") & case.on_cuda, few, stage.layers)


def _weight_copies(case: Case, stage: Stage, held: Parameters) -> tuple[Floats, Floats]:
    """Copies of linear weights that the graph keeps for the backward, and that end with the forward.

    Autocast's 2-byte copies are in the graph; with checkpointing only autocast's cache has them, until
    the forward leaves it. Fake-quantised weights are copies in the compute format.
    """
    layers = stage.layers * case.sizes.linear / case.tensor
    cast = 2.0 * case.autocasts * (layers + held.vocabulary * stage.has_loss)
    quantised = case.bytes.compute * layers * ~case.has("quantization_aware", "none")
    copies = cast + quantised
    return copies * ~case.checkpoints, copies * case.checkpoints


def _loss(case: Case, stage: Stage) -> tuple[Floats, Floats]:
    """Logits, their copies and gradients, in forward and backward; whole on each tensor-parallel rank."""
    constants = case.constants
    pieces = np.where(case.has("loss", "chunked"), constants.loss_chunks, 1)
    entries = stage.has_loss * case.tokens * case.shape.vocab_size / pieces
    softcap = constants.softcap_bytes if case.shape.model_type == "gemma2" else 0.0
    forward = np.where(case.mode == SINGLE, constants.loss_forward_fp32_bytes, constants.loss_forward_bytes)
    return (forward + softcap) * entries, (constants.loss_backward_bytes + softcap) * entries


def _gathered(case: Case, held: Parameters, head: Floats) -> tuple[Floats, Floats, Floats]:
    """Parameters gathered and gradients not yet scattered: in the loss, in a layer's backward, at the end.

    FSDP2 keeps the root's, and prefetches the next unit's while it reduces the previous one's gradients;
    between microbatches that it does not reduce, as in a pipeline, parameters and gradients stay whole.
    ZeRO-3 keeps gathered parameters up to a bound.
    """
    reduces_each = engine_constants(case.shape.num_parameters).fsdp_reduce_every_microbatch
    unreduced = case.is_fsdp & ((case.stages > 1) | ((case.accumulation > 1) & (not reduces_each)))
    whole = unreduced * (case.bytes.compute * held.total + case.bytes.reduced * held.trainable)
    root, unit = case.bytes.compute * held.root, case.bytes.compute * held.unit
    reduced_root = case.bytes.reduced * held.trainable_root
    reduced_unit = case.bytes.reduced * held.trainable_unit
    live = np.minimum(held.total, case.constants.deepspeed_max_live_parameters)
    kept = case.is_zero3 * case.bytes.compute * live + whole
    return (
        case.is_fsdp * (root + unit) + kept,
        case.is_fsdp * (root + 2 * unit + reduced_unit + case.bytes.compute * head) + kept,
        case.is_fsdp * (root + reduced_root) + kept,
    )


def _bucket(case: Case) -> Floats:
    """DeepSpeed's buffer of gradients on their way; two where communication overlaps."""
    buffers = 2 if case.on_cuda else 1
    elements = engine_constants(case.shape.num_parameters).deepspeed_bucket_elements
    return case.is_zero * case.bytes.gradients * buffers * elements


def _down_projection(case: Case) -> Floats:
    """The largest gradient of a layer; under LoRA, the layer's dequantised base weights instead."""
    gradient = _fresh_bytes(case) * case.shape.intermediate_size * case.shape.hidden_size
    dequantised = ~case.has("base_weights", "native") * case.bytes.compute * case.sizes.linear
    return np.where(case.is_lora, dequantised, gradient) / case.tensor


def _attention_transient(case: Case) -> Floats:
    """Gradients of eager attention's scores; keys and values gathered from the context-parallel ranks."""
    scores = case.tokens * case.sequence * case.shape.num_heads
    eager = case.has("attention", "eager") * case.constants.score_transient_bytes * scores
    pair = 2 * case.bytes.compute * case.shape.kv_size * case.micro_batch * case.sequence
    gathered = (case.context > 1) * case.constants.gathered_keys_alive * pair
    return (eager + gathered) / case.tensor


def _embedding_gradient(case: Case, held: Parameters) -> Floats:
    """The gradient of the vocabulary matrix that comes last and is added to, or copied into, another."""
    return ~case.is_lora * _fresh_bytes(case) * held.vocabulary


def _fresh_bytes(case: Case) -> Floats:
    """Bytes per element of a gradient as autograd makes it; FSDP2 widens it when it reduces it."""
    return np.where(case.is_fsdp, case.bytes.compute, case.bytes.gradients)


def _step_temporary(case: Case, held: Parameters) -> Floats:
    """Optimizers are fused, so only DeepSpeed copies: its gradients in the master's format."""
    own = held.trainable / case.shards * ~case.offloads_optimizer
    sub_group = engine_constants(case.shape.num_parameters).deepspeed_sub_group_elements
    return case.bytes.master * np.where(case.is_zero3, np.minimum(own, sub_group), own)
