"""A model split over tensor- or context-parallel ranks, and what that makes of its batches and its loss."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.parallel import loss_parallel

from trials.context_parallel import split_sequences
from trials.contract.config import TrainingConfig
from trials.data import Batch
from trials.engines import EngineRefusal
from trials.mesh import CONTEXT, TENSOR, Mesh
from trials.model import BuiltModel, ModelUnusable
from trials.tensor_parallel import parallelise, with_positions


@dataclass(frozen=True)
class Split:
    """How a rank takes part in the step of its replica; the defaults are those of one that does it alone."""

    batch: Callable[[Batch], Batch] = dict
    """What it makes of the replica's batch."""
    loss: Callable[[], AbstractContextManager[object]] = nullcontext
    """What forward and backward run in."""


def split_model(built: BuiltModel, mesh: Mesh, config: TrainingConfig) -> Split:
    """Split the model as its configuration says, before an engine shards it.

    Raises ModelUnusable, and EngineRefusal where a sequence does not divide into pieces.
    """
    if config.tensor_parallel_size * config.context_parallel_size > 1:
        _require_full_attention(built.module, config.sequence_length)
    if config.tensor_parallel_size > 1:
        parallelise(built, mesh[TENSOR])
        return Split(with_positions, loss_parallel)
    if config.context_parallel_size > 1:
        _require_fixed_positions(built.module)
        pieces = 2 * config.context_parallel_size
        if config.sequence_length % pieces:
            raise EngineRefusal(f"sequences of {config.sequence_length} do not divide into {pieces} pieces")
        sequences = split_sequences(built.module, len(built.layers), mesh[CONTEXT].get_group())
        return Split(sequences.split)
    return Split()


def _require_full_attention(model: nn.Module, sequence_length: int) -> None:
    """Masks are made of the tokens that a rank has, so there must be no need of any. Raises ModelUnusable."""
    config = getattr(model, "config", None)
    window = getattr(config, "sliding_window", None)
    if window is not None and window <= sequence_length and getattr(config, "use_sliding_window", True):
        raise ModelUnusable(
            f"attention of this model looks back over {window} tokens in some layers, which sequences that "
            f"are split over ranks do not do yet; use fewer than {window}"
        )
    if getattr(config, "attention_chunk_size", None) is not None:
        raise ModelUnusable(
            "attention of this model stays within chunks in some layers, which sequences that are split over "
            "ranks do not do yet"
        )


def _require_fixed_positions(model: nn.Module) -> None:
    """Ranks see positions up to their own last one, so no others may decide on them. Raises ModelUnusable."""
    of_all = getattr(getattr(model, "config", None), "rope_parameters", None) or {}
    of_layers = [value for value in of_all.values() if isinstance(value, dict)]
    kinds = {str(parameters.get("rope_type")) for parameters in (of_all, *of_layers)}
    if changing := kinds & {"dynamic", "longrope"}:
        raise ModelUnusable(
            f"rotary positions of this model ({', '.join(changing)}) depend on how long a sequence is, of "
            "which context-parallel ranks see parts"
        )


def write_part(parameter: nn.Parameter, full: torch.Tensor) -> None:
    """Every rank has the same whole tensor, so each takes its part without communication."""
    if not isinstance(parameter, DTensor):
        parameter.copy_(full)
        return
    part = distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
    parameter.to_local().copy_(part.to_local())
