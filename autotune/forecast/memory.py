"""Peak memory of the worst rank: its states, and the most that a phase of the step adds to them."""

from dataclasses import dataclass

import numpy as np

from autotune.forecast.activations import Activations
from autotune.forecast.case import Case
from autotune.forecast.formats import Floats
from autotune.forecast.measured import MeasuredTerms
from autotune.forecast.measured_phases import measured_phases
from autotune.forecast.phases import Phase, loss_pieces, phases
from autotune.forecast.states import Parameters, Stage, States, parameters, stages, states, unit_bytes
from trials.contract.messages import StepPhase

PARTS = ("weights", "gradients", "master", "optimizer", "activations", "transient", "fixed")
"""What a peak is made of; `fixed` is what lies outside tensors."""
MOST_BYTES = 2.0**53
"""More than any device has; up to it floats are whole numbers, and their sum fits 64 bits."""


@dataclass(frozen=True)
class Memory:
    """Bytes of the worst rank at its peak: whole numbers, in arrays of shape (n,) or (1,)."""

    parts: dict[str, Floats]
    """By PARTS; they add up to `peak`."""
    peak: Floats
    reserved: Floats
    """What the allocator holds; `fixed` does not belong to it."""


def memory(case: Case, acts: Activations) -> Memory:
    """The memory of every row; with a pipeline, that of its heavier end."""
    worst, *others = (_of_stage(case, stage, acts) for stage in stages(case))
    for other in others:
        heavier = (case.stages > 1) & (other.reserved > worst.reserved)
        worst = Memory(
            parts={name: np.where(heavier, other.parts[name], worst.parts[name]) for name in PARTS},
            peak=np.where(heavier, other.peak, worst.peak),
            reserved=np.where(heavier, other.reserved, worst.reserved),
        )
    return worst


def memory_by_phase(case: Case, acts: Activations) -> dict[StepPhase, dict[str, int]]:
    """The heaviest moment of each phase of a one-row case, by PARTS; with a pipeline, of its heavier end."""
    of_stages = [_phases_of_stage(case, stage, acts) for stage in stages(case)]
    return max(of_stages, key=lambda found: max(sum(parts.values()) for parts in found.values()))


def _phases_of_stage(case: Case, stage: Stage, acts: Activations) -> dict[StepPhase, dict[str, int]]:
    held = parameters(case, stage)
    state = states(case, held)
    found: dict[StepPhase, dict[str, int]] = {}
    for phase, moment in _moments(case, stage, held, state, acts):
        parts = {
            name: round(float(np.ravel(part)[0]))
            for name, part in zip(
                PARTS,
                (
                    state.weights,
                    moment.gradients,
                    state.master,
                    state.optimizer,
                    moment.activations,
                    moment.transient,
                    _fixed(case),
                ),
                strict=True,
            )
        }
        if sum(parts.values()) > sum(found.get(phase, {}).values()):
            found[phase] = parts
    return found


def _of_stage(case: Case, stage: Stage, acts: Activations) -> Memory:
    held = parameters(case, stage)
    state = states(case, held)
    moments = _moments(case, stage, held, state, acts)
    heaviest = _heaviest(moments)
    # Whole bytes from here on, so that the parts add up exactly.
    parts = {
        "weights": np.rint(state.weights),
        "gradients": heaviest.gradients,
        "master": np.rint(state.master),
        "optimizer": np.rint(state.optimizer),
        "activations": heaviest.activations,
        "transient": heaviest.transient,
        "fixed": np.rint(_fixed(case)),
    }
    parts = {name: np.minimum(part, MOST_BYTES) for name, part in parts.items()}
    peak = sum(parts.values(), np.zeros(1))
    standing = parts["weights"] + parts["master"] + parts["optimizer"]
    main: Floats = standing + np.maximum.reduce(
        np.broadcast_arrays(*(moment.activations + moment.transient for _, moment in moments))
    )
    reserved = np.rint(_reserved(case, stage, held, peak - parts["fixed"], main))
    return Memory(parts, peak, np.minimum(reserved, MOST_BYTES))


def _moments(
    case: Case, stage: Stage, held: Parameters, state: States, acts: Activations
) -> tuple[tuple[StepPhase, Phase], ...]:
    measured = case.shape.measured
    if measured is None:
        return phases(case, stage, held, state, acts)
    return measured_phases(case, MeasuredTerms(case, measured), stage, held, state, acts)


def _heaviest(of_step: tuple[tuple[StepPhase, Phase], ...]) -> Phase:
    """Of each row the moment with the largest sum, in whole bytes."""
    worst, *others = (Phase(*map(np.rint, moment)) for _, moment in of_step)
    total = sum(worst, np.zeros(1))
    for phase in others:
        other = sum(phase, np.zeros(1))
        heavier = other > total
        worst = Phase(*(np.where(heavier, new, old) for new, old in zip(phase, worst, strict=True)))
        total = np.maximum(total, other)
    return worst


def _fixed(case: Case) -> Floats:
    """Interpreter, or CUDA context and communicators."""
    constants = case.constants
    communicates = case.peers * case.tensor * case.stages > 1
    further = 1.0 * (case.tensor > 1) + (case.stages > 1) + (case.context > 1) + case.is_hsdp
    fixed: Floats = (
        constants.context_bytes
        + case.is_lora * constants.adapter_library_bytes
        + communicates * constants.first_communicator_bytes
        + further * constants.further_communicator_bytes
    )
    return fixed


def _reserved(case: Case, stage: Stage, held: Parameters, allocated: Floats, main: Floats) -> Floats:
    """What the allocator holds when tensors take `allocated`, and without gradients at most `main`.

    On CUDA, FSDP2's collectives allocate in streams of their own, whose freed blocks the main stream
    cannot use: beside its peak stand the pool of the all-gathers, that of the reduce-scatters, which has
    the gradients, unless they go to the CPU, and the hole that the freed logits leave.
    """
    held_back = allocated * case.constants.reserved_over_allocated
    if not case.on_cuda:
        return held_back
    entries = case.tokens * case.shape.vocab_size / (case.tensor * loss_pieces(case))
    hole = 2.0 * entries * stage.has_loss
    root, unit = case.bytes.compute * held.root, unit_bytes(case, held, case.bytes.compute)
    gathers = root * (1 + 1 / case.shards) + unit
    on_their_way = np.where(
        case.offloads_optimizer, held.trainable_unit + held.trainable_root, held.trainable
    )
    scatters = case.bytes.gradients * on_their_way / case.shards
    pooled = main + hole + gathers + scatters
    return np.where(case.is_fsdp, pooled, held_back)
