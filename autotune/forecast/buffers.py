"""What engines hold beside states and activations: gathered parameters, gradients on their way, buckets."""

from typing import NamedTuple

import numpy as np

from autotune.forecast.case import Case
from autotune.forecast.formats import Floats
from autotune.forecast.states import Parameters, Stage, States, keeps_whole, unit_bytes
from search_spaces.columns import Mask
from trials.contract.constants import engine_constants


def sharded_gradients(case: Case, held: Parameters, state: States) -> Floats:
    """Those that are there before the root's, which FSDP shards last of all; none that are offloaded."""
    return np.maximum(state.gradients - coming_gradients(case, held.trainable_root), 0.0)


def coming_gradients(case: Case, parameters: Floats) -> Floats:
    """Bytes of FSDP's shards of gradients that are still to come, where none stand from before."""
    to_come = case.is_fsdp & ~gradients_persist(case)
    return to_come * case.bytes.gradients * parameters / case.shards


def gradients_persist(case: Case) -> Mask:
    """Whether gradients are there before a backward, and it adds to them.

    DDP's buckets are allocated once, and gradients are views into them; so is ZeRO-3's partition. Else they
    appear as the backward comes to them, and go with the optimizer step.
    """
    return (case.accumulation > 1) | (case.is_ddp & (case.peers > 1)) | case.is_zero3


def waiting_head(case: Case, head: Floats) -> Floats:
    """A tied head's gradient, which waits for the embedding's before it is added to one that persists."""
    return case.bytes.gradients * head * (case.is_ddp & gradients_persist(case) & case.shape.tied_embeddings)


class LooseGradients(NamedTuple):
    """Bytes of gradients that DDP has not put into its buckets yet."""

    in_loss: Floats
    in_last_layer: Floats
    in_layer: Floats
    in_first_layer: Floats
    after_layers: Floats


def loose_gradients(case: Case, stage: Stage, held: Parameters, head: Floats) -> LooseGradients:
    """Those of the microbatches that DDP does not reduce (`no_sync`), beside the empty buckets.

    They were made anew, for the step before has set them to none; the last microbatch's backward copies each
    into its bucket as it comes to it (`copy_grad_to_bucket` in reducer.cpp). A tied head's comes last.
    """
    loose = case.bytes.gradients * (case.is_ddp & (case.peers > 1) & (case.accumulation > 1))
    below_head = held.trainable - head * (not case.shape.tied_embeddings)
    layers = held.trainable_unit * (stage.layers - 1)
    return LooseGradients(
        in_loss=loose * held.trainable,
        in_last_layer=loose * below_head,
        in_layer=loose * (below_head - held.trainable_unit),
        in_first_layer=loose * (below_head - layers),
        after_layers=loose * (below_head - layers - held.trainable_unit),
    )


class Gathered(NamedTuple):
    """Bytes of parameters gathered and gradients not yet scattered."""

    at_start: Floats
    """When those outside the layers have been gathered, and are copied out."""
    in_loss: Floats
    in_forward: Floats
    in_last_layer: Floats
    """In the backward of the last layer, the first to go."""
    in_layer: Floats
    """In that of the others, while the gradients of the one before are reduced."""
    after_layers: Floats
    """When the first layer's gradients are reduced."""
    at_root: Floats
    """When all gradients outside the layers are there."""
    at_sum: Floats
    """Earlier, when those of a tied matrix are added up."""
    at_end: Floats


def gathered(case: Case, held: Parameters, head: Floats) -> Gathered:
    """What sharded engines gather and have yet to scatter.

    FSDP2 keeps the root's, and prefetches the next unit's while it reduces the previous one's gradients.
    ZeRO-3 keeps gathered parameters up to a bound.
    """
    root, unit = case.bytes.compute * held.root, unit_bytes(case, held, case.bytes.compute)
    layers = (held.total - held.root) / held.unit
    whole = keeps_whole(case) * (layers * unit + root + case.bytes.reduced * held.trainable)
    root_gradients = case.bytes.compute * held.trainable_root
    reduced_root = case.bytes.reduced * held.trainable_root
    reduced_unit = case.bytes.reduced * held.trainable_unit
    unit_gradients = case.bytes.compute * held.trainable_unit / held.padding
    head_gradient = case.bytes.compute * head
    live = np.minimum(held.total, case.constants.deepspeed_max_live_parameters)
    kept = case.is_zero3 * case.bytes.compute * live + whole
    return Gathered(
        at_start=case.is_fsdp * 2 * root + kept,
        in_loss=case.is_fsdp * (root + unit) + kept,
        in_forward=case.is_fsdp * (root + 2 * unit) + kept,
        in_last_layer=case.is_fsdp * (root + 2 * unit + head_gradient) + kept,
        in_layer=case.is_fsdp * (root + 2 * unit + reduced_unit + head_gradient) + kept,
        after_layers=case.is_fsdp * (root + unit + unit_gradients + reduced_unit + head_gradient) + kept,
        at_root=case.is_fsdp * (root + root_gradients + reduced_unit) + kept,
        at_sum=case.is_fsdp * (root + reduced_unit) + kept,
        at_end=case.is_fsdp * (root_gradients + reduced_root) + kept,
    )


def bucket(case: Case, held: Parameters) -> Floats:
    """DeepSpeed's buffer of gradients on their way, and what it offloads with on a CPU.

    Stages 1 and 2 have two such buffers where communication overlaps, and make them with a backward's first
    gradient (`setup_buckets` in stage_1_and_2.py).
    """
    return _bucket(case) + of_offloading(case, held)


def _bucket(case: Case) -> Floats:
    buffers = np.where(case.is_zero3 | (not case.on_cuda), 1, 2)
    elements = engine_constants(case.shape.num_parameters).deepspeed_bucket_elements
    return case.is_zero * case.bytes.gradients * buffers * elements


def standing_bucket(case: Case, held: Parameters) -> Floats:
    """The same in the rest of a step: stage 3 has its own all along."""
    return case.is_zero3 * _bucket(case) + of_offloading(case, held)


def of_offloading(case: Case, held: Parameters) -> Floats:
    """What DeepSpeed has in CPU memory to offload an optimizer with, where that is the device's own.

    Gradients of its partition in the master's format, as long as it trains (`initialize_optimizer_states` in
    stage_1_and_2.py and stage3.py of DeepSpeed 0.19).
    """
    gradients = case.bytes.master * held.trainable / case.shards
    on_cpu = case.updates_by_deepspeed & (not case.on_cuda)
    return on_cpu * (gradients + way_back(case, held) + gradient_buffer(case, held))


def way_back(case: Case, held: Parameters) -> Floats:
    """CPU memory that stages 1 and 2 offload through: new weights of the partition in the format that is
    computed with (`param_buffer_of_bit16_for_cpu_offload_groups`), and a gradient.
    """
    weights = case.bytes.compute * held.trainable / case.shards
    return case.updates_by_deepspeed * ~case.is_zero3 * weights + gradient_buffer(case, held)


def gradient_buffer(case: Case, held: Parameters) -> Floats:
    """One of the largest parameter (`temp_grad_buffer_for_cpu_offload`); the device has another."""
    largest = np.minimum(np.maximum(held.vocabulary, held.unit / 3), held.trainable)
    return case.updates_by_deepspeed * ~case.is_zero3 * case.bytes.compute * largest
