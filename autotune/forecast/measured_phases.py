"""The moments of a step of a model whose layers were measured; of others `phases` derives them."""

import numpy as np

from autotune.forecast import buffers, phases
from autotune.forecast.activations import Activations, more_of_attention
from autotune.forecast.case import Case
from autotune.forecast.measured import MeasuredTerms
from autotune.forecast.phases import Phase
from autotune.forecast.states import Parameters, Stage, States, layers_alive, shards_gradients
from autotune.forecast.weight_copies import fake_quantised, weight_copies
from trials.contract.messages import StepPhase


def measured_phases(
    case: Case, terms: MeasuredTerms, stage: Stage, held: Parameters, state: States, acts: Activations
) -> tuple[tuple[StepPhase, Phase], ...]:
    """The moments that can be the peak, in order, as `phases.phases` has them of other models."""
    copies = weight_copies(case, stage, held)
    alive = layers_alive(case, stage) * acts.saved
    one_waiting = phases.of_waiting(case, stage, copies, acts)
    waiting = (stage.in_flight - 1) * one_waiting
    saved = waiting + alive + copies.of_layers
    one_layer = acts.saved + copies.of_layers / stage.layers

    persist = buffers.gradients_persist(case)
    before = state.gradients * persist
    head = np.where(case.is_lora, 0.0, held.vocabulary * stage.has_loss)
    appear = ~(persist | shards_gradients(case)) * case.bytes.gradients
    # Where gradients persist, a finished one has been added to what was there.
    finished = case.is_fsdp | ~persist
    gathered, bucket = buffers.gathered(case, held, head), buffers.bucket(case, held)
    standing = buffers.standing_bucket(case, held)
    layer = (
        terms.most("backward", finished)
        + phases.key_gradients(case)
        + case.checkpoints * more_of_attention(case)
    )
    layer = layer + phases.dequantised(case) + fake_quantised(case) * case.checkpoints
    pieces = phases.loss_share(case) * stage.has_loss
    parallel_loss = phases.parallel_loss(case, stage)
    waits = buffers.waiting_head(case, head)
    if (case.tensor > 1).any():
        layer = np.maximum(layer, (case.tensor > 1) * phases.gathering_gradient(case, acts))
    layer = layer + waits
    loose = buffers.loose_gradients(case, stage, held, head)
    in_loss = phases.beside_all(case, before, loose.in_loss, np.zeros(1), one_waiting)
    in_last_layer = phases.beside_all(case, before, loose.in_last_layer, head, one_waiting)
    in_layer = phases.beside_all(case, before, loose.in_layer, head + held.trainable_unit, one_waiting)
    return (
        (StepPhase.FORWARD, Phase(in_loss, np.zeros(1), gathered.at_start + standing)),
        (
            StepPhase.FORWARD,
            Phase(
                in_loss,
                saved + copies.cached,
                terms.most("forward", finished) + gathered.in_forward + standing,
            ),
        ),
        (
            StepPhase.FORWARD,
            Phase(
                in_loss,
                saved + copies.cached,
                pieces * terms.most("head", finished) + parallel_loss + gathered.in_loss + standing,
            ),
        ),
        (
            StepPhase.LOSS,
            Phase(
                in_loss,
                saved,
                pieces * terms.most("loss", finished) + parallel_loss + gathered.in_loss + standing,
            ),
        ),
        (
            StepPhase.LAYERS,
            Phase(in_last_layer + appear * head, saved, layer + gathered.in_last_layer + bucket),
        ),
        (
            StepPhase.LAYERS,
            Phase(
                in_layer + appear * (head + held.trainable_unit),
                saved - one_layer,
                (layer + gathered.in_layer + bucket) * (stage.layers > 1),
            ),
        ),
        (
            StepPhase.LAYERS,
            Phase(
                np.where(
                    appear > 0,
                    appear * (held.trainable_unit * (stage.layers - 1) + head),
                    buffers.sharded_gradients(case, held, state),
                )
                + loose.in_first_layer,
                waiting + one_layer,
                layer + gathered.in_layer + bucket,
            ),
        ),
        *phases.after_layers(case, held, state, acts, waiting, waits + loose.after_layers, gathered, bucket),
    )
