"""What each phase of an optimizer step needs beside weights, master and optimizer states."""

from typing import NamedTuple

import numpy as np

from autotune.forecast.activations import Activations, whole_keys
from autotune.forecast.buffers import (
    Gathered,
    bucket,
    coming_gradients,
    gathered,
    gradients_persist,
    loose_gradients,
    sharded_gradients,
    standing_bucket,
    waiting_head,
)
from autotune.forecast.case import Case
from autotune.forecast.formats import SINGLE, Floats
from autotune.forecast.layers import widest_matrix
from autotune.forecast.states import Parameters, Stage, States, layers_alive, shards_gradients
from autotune.forecast.styles import style_of
from autotune.forecast.weight_copies import Copies, weight_copies
from trials.contract.constants import LOSS_CHUNKS, engine_constants
from trials.contract.messages import StepPhase

LOG_SOFTMAX_BYTES = 4.0
"""Per token and vocabulary entry: what cross-entropy keeps for its backward, in fp32."""
UNFUSED = ("lion", "adafactor", "adamw_8bit")


class Phase(NamedTuple):
    """Bytes in one moment of a step; `transient` holds loss, gathered parameters, buckets and temporaries."""

    gradients: Floats
    activations: Floats
    transient: Floats


def phases(
    case: Case, stage: Stage, held: Parameters, state: States, acts: Activations
) -> tuple[tuple[StepPhase, Phase], ...]:
    """The moments that can be the peak, in order."""
    copies = weight_copies(case, stage, held)
    layers = layers_alive(case, stage) * acts.saved
    masks = acts.masks * case.checkpoints  # layers are given them again
    # Each microbatch in flight waits, but for the one that is going backward.
    one_waiting = of_waiting(case, stage, copies, acts)
    waiting = (stage.in_flight - 1) * one_waiting
    saved = waiting + layers + copies.of_layers + masks
    one_layer = acts.saved + copies.of_layers / stage.layers
    final_norm = acts.final_norm * stage.has_loss

    persist = gradients_persist(case)
    before = state.gradients * persist
    head = np.where(case.is_lora, 0.0, held.vocabulary * stage.has_loss)
    appear = ~(persist | shards_gradients(case)) * case.bytes.gradients
    but_first_layer = appear * (held.trainable_unit * (stage.layers - 1) + head)
    sharded, coming_unit = sharded_gradients(case, held, state), coming_gradients(case, held.trainable_unit)
    waits = waiting_head(case, head)
    loose = loose_gradients(case, stage, held, head)
    in_loss = beside_all(case, before, loose.in_loss, np.zeros(1), one_waiting)
    in_last_layer = beside_all(case, before, loose.in_last_layer, head, one_waiting)
    in_layer = beside_all(case, before, loose.in_layer, head + held.trainable_unit, one_waiting)

    loss_forward, loss_backward = _loss(case, stage)
    shared = gathered(case, held, head)
    buffers, standing = bucket(case, held), standing_bucket(case, held)
    # Checkpointing casts the weights of a layer anew when it is recomputed.
    recomputed = acts.recomputed + copies.of_one_layer * case.checkpoints
    layer = _layer_backward(case, acts)
    leaving = acts.stream * case.autocasts * stage.has_loss  # the hidden states, which the head reads cast
    return (
        (StepPhase.FORWARD, Phase(in_loss, np.zeros(1), shared.at_start + standing)),
        (
            StepPhase.FORWARD,
            Phase(
                in_loss,
                saved + copies.cached + acts.in_forward + (acts.masks - acts.saved) * ~case.checkpoints,
                shared.in_forward + standing,
            ),
        ),
        (
            StepPhase.FORWARD,
            Phase(
                in_loss,
                saved + copies.cached + copies.of_head + final_norm,
                loss_forward + leaving + shared.in_loss + standing,
            ),
        ),
        (
            StepPhase.LOSS,
            Phase(
                in_loss,
                saved + copies.of_head + final_norm,
                loss_backward + _of_chunks_before(case, head) + shared.in_loss + standing,
            ),
        ),
        (
            StepPhase.LOSS,
            Phase(
                in_loss,
                saved + copies.of_head + final_norm,
                _head_backward(case, stage, head) + _of_chunks_before(case, head) + shared.in_loss + buffers,
            ),
        ),
        (
            StepPhase.LOSS,
            Phase(
                in_loss,
                saved + final_norm,
                acts.stream * stage.has_loss + _fresh_bytes(case) * head + shared.in_loss + buffers,
            ),
        ),
        (
            StepPhase.LOSS,
            Phase(
                in_last_layer + appear * head + waits,
                saved,
                acts.head * stage.has_loss + shared.in_loss + buffers,
            ),
        ),
        (
            StepPhase.LAYERS,
            Phase(
                in_last_layer + appear * head + waits,
                saved + recomputed,
                layer + shared.in_last_layer + buffers,
            ),
        ),
        (
            StepPhase.LAYERS,
            Phase(
                in_layer + appear * (head + held.trainable_unit) + waits,
                saved - one_layer + recomputed,
                (layer + shared.in_layer + buffers) * (stage.layers > 1),
            ),
        ),
        (
            StepPhase.LAYERS,
            Phase(
                np.where(appear > 0, but_first_layer, np.maximum(sharded - coming_unit, 0.0))
                + waits
                + loose.in_first_layer,
                waiting + one_layer + masks + recomputed,
                layer + shared.in_layer + buffers,
            ),
        ),
        *after_layers(case, held, state, acts, waiting, waits + loose.after_layers, shared, buffers),
    )


def of_waiting(case: Case, stage: Stage, copies: Copies, acts: Activations) -> Floats:
    """A microbatch between its forward and its backward: its graph, with the weights that it cast for itself.

    On the last stage with the logits, which the stage keeps as its output, and the log-softmax of the loss.
    """
    entries = case.tokens * case.shape.vocab_size * loss_share(case)
    of_loss = acts.final_norm + copies.of_head + (case.bytes.compute + LOG_SOFTMAX_BYTES) * entries
    masks = acts.masks * case.checkpoints
    return layers_alive(case, stage) * acts.saved + copies.of_layers + masks + stage.has_loss * of_loss


def beside_all(case: Case, before: Floats, loose: Floats, made: Floats, one_waiting: Floats) -> Floats:
    """Bytes of gradients to count beside all microbatches that wait: `before` and `loose`.

    GPipe has no gradients yet when all wait but the first, save those of the `made` parameters; one fewer
    waits when it has them all. FSDP's, and the buckets of DDP, are counted from the start.
    """
    gpipe = (case.stages > 1) & case.has("pipeline_schedule", "gpipe")
    standing = before * (case.is_fsdp | (case.is_ddp & (case.peers > 1)))
    in_gpipe = np.maximum(
        before + loose - standing - one_waiting, case.bytes.gradients * made * ~case.is_fsdp
    )
    return np.where(gpipe, standing + in_gpipe, before + loose)


def after_layers(
    case: Case,
    held: Parameters,
    state: States,
    acts: Activations,
    waiting: Floats,
    waits: Floats,
    shared: "Gathered",
    buffers: Floats,
) -> tuple[tuple[StepPhase, Phase], ...]:
    """The moments when no layer is left to go backward."""
    twice = ~case.is_fsdp & (gradients_persist(case) | case.is_zero | case.shape.tied_embeddings)
    before = sharded_gradients(case, held, state)
    gathered_stream = (case.tensor > 1) * case.constants.whole_streams_alive * _whole_stream(case)
    return (
        (
            StepPhase.EMBEDDING,
            Phase(before, waiting, acts.stream + gathered_stream + shared.after_layers + buffers),
        ),
        (
            StepPhase.EMBEDDING,
            Phase(
                before + waits,
                waiting,
                acts.stream
                + twice * _embedding_gradient(case, held)
                + _whole_embedding_gradient(case, held)
                + shared.at_root
                + buffers,
            ),
        ),
        (StepPhase.EMBEDDING, Phase(before, waiting, _tied_sum(case, held) + shared.at_sum + buffers)),
        (StepPhase.EMBEDDING, Phase(before, waiting, shared.at_end + buffers)),
        (
            StepPhase.STEP,
            Phase(state.gradients, np.zeros(1), _step_temporary(case, held) + standing_bucket(case, held)),
        ),
    )


def _tied_sum(case: Case, held: Parameters) -> Floats:
    """A tied matrix's gradients as embedding and as head, and the third that they are added into.

    Autograd would add into the one that came first, the head's, but that of an nn.Linear is a view; only
    autocast casts it first. Traced, and measured on CPU.
    """
    added = case.shape.tied_embeddings & ~case.is_lora & ~case.autocasts
    counted = case.is_ddp & ~gradients_persist(case)  # the third among the gradients already
    return added * (3 - counted) * _kept_bytes(case) * held.vocabulary


def _loss(case: Case, stage: Stage) -> tuple[Floats, Floats]:
    """Logits, their copies and gradients, in forward and backward.

    Tensor-parallel ranks divide them by the vocabulary, and hold one part more.
    """
    constants = case.constants
    entries = stage.has_loss * case.tokens * case.shape.vocab_size * loss_share(case)
    # A softcap of the logits keeps the tanh of each, in their format.
    softcap = case.bytes.compute * (case.shape.model_type == "gemma2")
    forward = np.where(case.mode == SINGLE, constants.loss_forward_fp32_bytes, constants.loss_forward_bytes)
    backward = constants.loss_backward_bytes + softcap
    return (
        (forward + softcap) * entries + parallel_loss(case, stage),
        backward * entries + parallel_loss(case, stage),
    )


def parallel_loss(case: Case, stage: Stage) -> Floats:
    """What DTensor holds of a tensor-parallel rank's part of the logits beside what is held otherwise."""
    entries = stage.has_loss * case.tokens * case.shape.vocab_size * loss_share(case)
    return case.constants.parallel_loss_more_bytes * (case.tensor > 1) * entries


def loss_share(case: Case) -> Floats:
    """Share of the logits that a rank has at a time."""
    share: Floats = 1 / (case.tensor * loss_pieces(case))
    return share


def loss_pieces(case: Case) -> Floats:
    """Pieces that the logits are made in, one after the other."""
    return np.where(case.has("loss", "chunked"), float(LOSS_CHUNKS), 1.0)


def _of_chunks_before(case: Case, head: Floats) -> Floats:
    """The head's gradient, which chunks of the loss that went backward before have made already."""
    return case.has("loss", "chunked") * _kept_bytes(case) * head


def _head_backward(case: Case, stage: Stage, head: Floats) -> Floats:
    """The gradient of the logits in the head's format, and those of its input and of its weight.

    Autocast's gradient of the weight is widened when that of the logits is gone.
    """
    entries = case.shape.vocab_size / (case.tensor * loss_pieces(case))
    logits = case.tokens * (entries + case.shape.hidden_size)
    made = np.where(case.is_fsdp | case.autocasts, case.bytes.compute, case.bytes.gradients)
    return stage.has_loss * case.bytes.compute * logits + made * head


def _layer_backward(case: Case, acts: Activations) -> Floats:
    """The most that a layer's backward needs beside what the layer keeps.

    The gradient of its largest matrix is made first. Under LoRA there is none, but the frozen weights of a
    quantised base are there in the compute format.
    """
    matrix = case.shape.num_experts * case.shape.intermediate_size * case.shape.hidden_size / case.tensor
    trains = ~case.is_lora * matrix
    made, kept = _fresh_bytes(case) * trains, _kept_bytes(case) * trains
    added_up = gradients_persist(case) & ~case.is_fsdp
    fed_forward = np.where(added_up, 0.0, kept) * (3 if case.shape.gated_mlp else 2)
    attention = acts.attention + fed_forward + key_gradients(case)
    moments = [acts.down + made, acts.product + kept, attention, acts.other]
    if case.shape.stacks_experts:  # the gradients of all experts are one tensor
        moments.append(acts.experts + 2 * made + kept)
    if (case.tensor > 1).any():
        moments.append((case.tensor > 1) * gathering_gradient(case, acts))
    most: Floats = np.maximum.reduce(np.broadcast_arrays(*moments))
    return most + dequantised(case)


def gathering_gradient(case: Case, acts: Activations) -> Floats:
    """While tensor-parallel ranks gather the gradient of a part's output, of which each has some tokens.

    That of the feed-forward part comes first, and a layer is recomputed when it is there, but where a norm
    follows it.
    """
    whole = _whole_stream(case)
    cast = case.autocasts * whole / case.tensor
    gathering = cast + case.constants.whole_streams_alive * whole
    is_given = case.has("activation_checkpointing", "full") & (not style_of(case.shape).norms_after)
    fed_forward = acts.stream + np.where(is_given, whole, gathering)
    return np.maximum(fed_forward, acts.attention + gathering + whole)


def _whole_stream(case: Case) -> Floats:
    """Hidden states of all tokens of a microbatch, as tensor-parallel ranks gather them."""
    return case.bytes.compute * case.tokens * case.shape.hidden_size


def dequantised(case: Case) -> Floats:
    """The largest matrix of a layer, where its frozen weights are stored quantised, in the compute format."""
    largest = case.shape.hidden_size * widest_matrix(case.shape)
    return ~case.has("base_weights", "native") * case.bytes.compute * largest / case.tensor


def key_gradients(case: Case) -> Floats:
    """Gradients of keys and values that were gathered from context-parallel ranks."""
    return (case.context > 1) * case.constants.key_gradients_alive * whole_keys(case)


def _embedding_gradient(case: Case, held: Parameters) -> Floats:
    """The gradient of the vocabulary matrix that comes last and is added to, or copied into, another."""
    return ~case.is_lora * _kept_bytes(case) * held.vocabulary


def _whole_embedding_gradient(case: Case, held: Parameters) -> Floats:
    """What DTensor makes of it on every tensor-parallel rank, before each takes its part."""
    return (case.tensor > 1) * case.tensor * _embedding_gradient(case, held)


def _fresh_bytes(case: Case) -> Floats:
    """Bytes per element of a gradient while autograd makes it.

    FSDP2 widens it later, when it reduces it; autocast's is made in two bytes and widened at once.
    """
    return np.where(case.is_fsdp, case.bytes.compute, case.bytes.gradients + 2.0 * case.autocasts)


def _kept_bytes(case: Case) -> Floats:
    """The same from then until FSDP2 reduces it."""
    return np.where(case.is_fsdp, case.bytes.compute, case.bytes.gradients)


def _step_temporary(case: Case, held: Parameters) -> Floats:
    """DeepSpeed copies its gradients in the master's format, where it does not offload; an optimizer that is
    not fused, what it updates.

    That is the largest parameter, or all of DeepSpeed's partition at once.
    """
    own = held.trainable / case.shards * ~case.offloads_optimizer
    sub_group = engine_constants(case.shape.num_parameters).deepspeed_sub_group_elements
    part = np.where(case.is_zero3, np.minimum(own, sub_group), own)
    largest = np.where(case.is_zero, part, np.maximum(held.vocabulary, held.unit / 3) / case.shards)
    copies = case.has("optimizer", *UNFUSED) * case.bytes.state * np.minimum(largest, own)
    return case.bytes.master * part * ~case.updates_by_deepspeed + copies
