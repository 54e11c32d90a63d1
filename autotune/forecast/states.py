"""What a rank holds between the phases of a step: weights, gradients, master and optimizer states."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from autotune.forecast.case import Case
from autotune.forecast.formats import FROZEN_BYTES, OPTIMIZERS, Floats
from search_spaces.columns import Mask
from trials.contract.constants import engine_constants

_MOMENTS: Mapping[str, float] = MappingProxyType({name: row.moments for name, row in OPTIMIZERS.items()})
_OTHER: Mapping[str, float] = MappingProxyType({name: row.other_bytes for name, row in OPTIMIZERS.items()})


@dataclass(frozen=True)
class Stage:
    """The pipeline stage of a rank; without a pipeline it is the whole model."""

    layers: Floats
    matrices: Floats
    """Vocabulary matrices it holds."""
    in_flight: Floats
    """Microbatches whose activations it holds at a time: in 1F1B one for each stage from here on, in GPipe
    all of a step (Huang et al. 2019)."""
    has_loss: bool


def stages(case: Case) -> tuple[Stage, ...]:
    """The last stage, and where some row has a pipeline also the first; the others are lighter."""
    layers = np.ceil(case.shape.num_layers / case.stages)
    piped = case.stages > 1
    matrices = np.where(piped, 1.0, case.sizes.matrices)
    fills_first = piped & case.has("pipeline_schedule", "gpipe")
    last = Stage(layers, matrices, np.where(fills_first, case.accumulation, 1.0), has_loss=True)
    if not piped.any():
        return (last,)
    in_flight = np.where(fills_first, case.accumulation, np.minimum(case.stages, case.accumulation))
    return last, Stage(layers, matrices, in_flight, has_loss=False)


def layers_alive(case: Case, stage: Stage) -> Floats:
    """Layers whose activations are on the device after a forward."""
    few = np.minimum(stage.layers, case.constants.offloaded_layers_alive)
    return np.where(case.has("offload", "activations") & case.on_cuda, few, stage.layers)


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters of one rank, before sharding over its peers; with FSDP's padding."""

    padding: Floats
    """Times more than it has that FSDP gathers of a layer."""
    unit: Floats
    """A layer: what FSDP gathers at a time."""
    root: Floats
    """Outside the layers: what FSDP gathers first and keeps."""
    vocabulary: Floats
    """One vocabulary matrix."""
    total: Floats
    trainable_unit: Floats
    trainable_root: Floats
    trainable: Floats


def parameters(case: Case, stage: Stage) -> Parameters:
    sizes = case.sizes
    padding = _padding(case)
    unit = padding * sizes.layer / case.tensor
    vocabulary = sizes.vocabulary / case.tensor
    root = stage.matrices * vocabulary + sizes.other
    adapter = sizes.adapter * case.count("lora_rank") / case.tensor
    trainable_unit = np.where(case.is_lora, adapter, unit)
    trainable_root = np.where(case.is_lora, 0.0, root)
    return Parameters(
        padding=padding,
        unit=unit,
        root=root,
        vocabulary=vocabulary,
        total=stage.layers * unit + root,
        trainable_unit=trainable_unit,
        trainable_root=trainable_root,
        trainable=stage.layers * trainable_unit + trainable_root,
    )


def _padding(case: Case) -> Floats:
    """FSDP2 splits along the first dimension in equal parts: 8 experts on 64 ranks are padded to 64."""
    experts = case.shape.num_experts
    padded = np.ceil(experts / case.shards) * case.shards / experts
    share = case.sizes.experts / case.sizes.layer
    return np.where(case.is_fsdp, 1 + share * (padded - 1), 1.0)


@dataclass(frozen=True)
class States:
    """Bytes of one rank. `gradients` are those after a backward."""

    weights: Floats
    gradients: Floats
    master: Floats
    optimizer: Floats


def states(case: Case, held: Parameters) -> States:
    own = held.trainable / case.shards * ~case.offloads_optimizer
    return States(
        weights=_weights(case, held),
        gradients=_gradients(case, held),
        master=case.bytes.master * own,
        optimizer=optimizer_bytes(case) * own,
    )


def optimizer_bytes(case: Case) -> Floats:
    """Of a trained parameter."""
    moments, other = case.looked_up("optimizer", _MOMENTS), case.looked_up("optimizer", _OTHER)
    return case.bytes.state * moments + other


def stored_bytes(case: Case, held: Parameters) -> Floats:
    """Of all weights of a rank, adapters among them, before sharding over its peers."""
    layers = (held.total - held.root) / held.unit
    # Embedding, head and norms stay as they are.
    frozen = layers * unit_bytes(case, held, case.frozen_bytes) + case.frozen_bytes * held.root
    return frozen + case.is_lora * case.bytes.weights * held.trainable


def _weights(case: Case, held: Parameters) -> Floats:
    on_device = stored_bytes(case, held) * ~case.offloads_parameters
    return np.where(case.is_fsdp | case.is_zero3, on_device / case.shards, on_device)


def unit_bytes(case: Case, held: Parameters, native_bytes: Floats) -> Floats:
    """A layer whose weights take `native_bytes` each, but for the matrices of a quantised base."""
    if case.has("base_weights", "native").all():
        return native_bytes * held.unit
    quantised = ~case.has("base_weights", "native") * held.padding * quantised_weights(case, held)
    return native_bytes * (held.unit - quantised) + quantised_bytes(case) * quantised


def quantised_weights(case: Case, held: Parameters) -> Floats:
    """Weights of a layer in matrices that a quantised base stores in fewer bytes."""
    return held.unit / held.padding * case.sizes.linear / case.sizes.layer


def quantised_bytes(case: Case) -> Floats:
    """Of a weight of such a matrix; 0 where the base is native."""
    return case.looked_up("base_weights", {"native": 0.0, **FROZEN_BYTES})


def keeps_whole(case: Case) -> Mask:
    """Whether FSDP gathers once a step and scatters once, with whole parameters and gradients in between.

    It does between microbatches that it does not reduce, as in a pipeline.
    """
    reduces_each = engine_constants(case.shape.num_parameters).fsdp_reduce_every_microbatch
    return case.is_fsdp & ((case.stages > 1) | ((case.accumulation > 1) & (not reduces_each)))


def _gradients(case: Case, held: Parameters) -> Floats:
    """Partitions of gradients follow offloaded optimizer states to the CPU; whole gradients stay.

    With one microbatch ZeRO-2 that offloads keeps them in the master's format alone (`of_offloading`), which
    is where a pure bf16 master has them added up as well.
    """
    whole = case.bytes.gradients * held.trainable
    elsewhere = (
        case.updates_by_deepspeed & ~case.is_zero3 & ((case.accumulation == 1) | (case.bytes.master < 4))
    )
    own = whole / case.shards * ~(case.offloads_optimizer | elsewhere)
    return np.where(shards_gradients(case), own, whole)


def shards_gradients(case: Case) -> Mask:
    return case.is_fsdp | case.has("sharding", "zero2", "zero3")
