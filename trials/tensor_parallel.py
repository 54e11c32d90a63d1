"""Tensor parallelism by the model's own plan, with DTensor; between matmuls the sequence is split.

As torchtitan does it: each rank has a part of every matrix, and of the tokens in norms and residuals
(sequence parallelism, Korthikanti et al. 2022); the loss is of logits that are split by the vocabulary.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from trials.data import Batch
from trials.model import BuiltModel, ModelUnusable

SEQUENCE, HEADS = 1, 2
"""Dimensions of hidden states (B, S, h), and of queries (B, S, heads, head size)."""
STYLES: Mapping[str, ParallelStyle] = MappingProxyType(
    {
        "colwise": ColwiseParallel(),
        "rowwise": RowwiseParallel(output_layouts=Shard(SEQUENCE)),
        # A norm of each head, of which every rank has some.
        "replicated_with_grad_allreduce": SequenceParallel(sequence_dim=HEADS, use_local_output=True),
    }
)
"""What a plan of transformers says of a module of a layer → how it is split here."""


def parallelise(built: BuiltModel, mesh: DeviceMesh) -> None:
    """Split the parameters of a Hugging Face model over the ranks of `mesh`, and its activations with them.

    Raises ModelUnusable for a model without a plan, or with one that splits more than linears.
    """
    model: Any = built.module
    if not getattr(model, "tp_plan", None):
        raise ModelUnusable("transformers has no plan for the tensor parallelism of this model")
    base, head = model.base_model, model.get_output_embeddings()
    embedding = base.get_input_embeddings()
    if head is None or head.weight is embedding.weight:
        raise ModelUnusable("tensor parallelism splits embedding and head apart, but this model ties them")
    for name, module in _with_parameters(model):
        parallelize_module(module, mesh, _style_of(name, module, model.tp_plan, embedding, head))
    for layer in built.layers:
        inside = getattr(layer, "_checkpoint_wrapped_module", layer)
        for child in inside.children():
            if any(isinstance(part, nn.Linear) for part in child.children()):
                child.register_forward_pre_hook(_GatherSequence(mesh), with_kwargs=True)


def with_positions(batch: Batch) -> Batch:
    """The batch with the positions of all its tokens, of which hidden states have only a rank's part."""
    tokens = batch["input_ids"]
    positions = torch.arange(tokens.shape[SEQUENCE], device=tokens.device)
    return {**batch, "position_ids": positions[None].expand_as(tokens)}


def _with_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, m) for name, m in model.named_modules() if m._parameters)


def _style_of(
    name: str, module: nn.Module, plan: Mapping[str, str], embedding: nn.Module, head: nn.Module
) -> ParallelStyle:
    if module is embedding:
        return RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(SEQUENCE))
    if module is head:
        return ColwiseParallel(
            input_layouts=Shard(SEQUENCE), output_layouts=Shard(-1), use_local_output=False
        )
    planned = next((style for pattern, style in plan.items() if fnmatchcase(name, pattern)), None)
    if planned is not None and planned in STYLES:
        return STYLES[planned]
    if planned is not None or isinstance(module, nn.Linear):
        raise ModelUnusable(
            f"tensor parallelism splits linears by columns or rows, and {name} is to be "
            f"{planned or 'whole'} in this model"
        )
    return SequenceParallel(use_local_output=True)


class _GatherSequence:
    """Before attention and feed-forward part: the hidden states of the whole sequence, gathered once."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self._mesh = mesh

    def __call__(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (self._whole(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._whole(kwargs["hidden_states"])}

    def _whole(self, hidden: torch.Tensor) -> DTensor:
        part = DTensor.from_local(hidden, self._mesh, [Shard(SEQUENCE)], run_check=False)
        return part.redistribute(placements=[Replicate()])
