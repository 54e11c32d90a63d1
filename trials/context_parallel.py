"""Context parallelism: each rank has a part of every sequence, and gathers the keys and values before it.

The all-gather of Llama 3 (Dubey et al. 2024, section 3.3.2): exact with any attention kernel. Of 2n pieces of
a sequence rank i has number i and number 2n - 1 - i, so that causal attention costs every rank the same.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from trials.data import Batch
from trials.model import ModelUnusable

ATTENTION = "autotune_gathered"
"""Name of the attention function among those of transformers."""
IGNORED = -100


def own_pieces(whole: torch.Tensor, dim: int, ranks: int, rank: int) -> torch.Tensor:
    """Of a tensor over the sequence what `rank` has: an early piece, then a late one."""
    pieces = whole.chunk(2 * ranks, dim)
    return torch.cat((pieces[rank], pieces[-1 - rank]), dim)


def in_order(parts: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    """The tensor over the sequence of which each rank has such pieces."""
    early, late = zip(*(part.chunk(2, dim) for part in parts), strict=True)
    return torch.cat((*early, *reversed(late)), dim)


class _Gather(torch.autograd.Function):
    """The whole of what ranks have in parts (B, heads, S / ranks, d); backward each sums what is its own."""

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        parts = [torch.empty_like(part) for _ in range(group.size())]
        dist.all_gather(parts, part.contiguous(), group=group)
        return in_order(parts, dim=2)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        ranks = range(ctx.group.size())
        parts = [own_pieces(gradient, 2, len(ranks), rank) for rank in ranks]
        own = torch.empty_like(parts[0])
        if gradient.is_cuda:
            dist.reduce_scatter(own, parts, group=ctx.group)
        else:  # gloo has none
            for rank, part in enumerate(parts):
                dist.reduce(part, group=ctx.group, group_dst=rank)
            own = parts[ctx.group.rank()]
        return own, None


class Sequences:
    """How one rank sees sequences of which it has a part."""

    def __init__(self, group: dist.ProcessGroup, num_layers: int) -> None:
        self._group = group
        self._num_layers = num_layers
        self._attended: set[nn.Module] = set()
        """Attention modules that have looked beyond their rank's part."""
        self._has_split = False

    def split(self, batch: Batch) -> Batch:
        """This rank's part of the tokens, with their positions and the tokens that follow each.

        Raises ModelUnusable where the forward of the batch before showed layers that mix tokens otherwise.
        """
        if self._has_split and len(self._attended) != self._num_layers:
            raise ModelUnusable(
                f"{len(self._attended)} of this model's {self._num_layers} layers attend by a function that "
                "context parallelism can replace; the others would see a rank's part of the sequence only"
            )
        self._has_split = True
        tokens, labels = batch["input_ids"], batch["labels"]
        following = functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None].expand_as(tokens)
        # A mean over ranks is to be that over all tokens, of which one rank has fewer: the last has no next.
        counted = (following != IGNORED).sum() / self._group.size()
        own = {"input_ids": tokens, "shift_labels": following, "position_ids": positions}
        size, rank = self._group.size(), self._group.rank()
        parts = {name: own_pieces(value, 1, size, rank) for name, value in own.items()}
        return {**parts, "labels": parts["shift_labels"], "num_items_in_batch": counted}

    def attend(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **_kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Causal attention of this rank's queries (B, heads, S / ranks, d) to all keys up to theirs."""
        self._attended.add(module)
        # Autocast leaves rotated queries and keys wider than values, and would cast them in the kernel.
        query, key = query.to(value.dtype), key.to(value.dtype)
        keys, values = self._gathered(key), self._gathered(value)
        early, late = query.chunk(2, dim=2)
        rank, length = self._group.rank(), early.shape[2]
        attended = []
        for queries, seen in ((early, (rank + 1) * length), (late, keys.shape[2] - rank * length)):
            bias: Any = causal_lower_right(length, seen)
            output = functional.scaled_dot_product_attention(
                queries,
                keys[:, :, :seen],
                values[:, :, :seen],
                attn_mask=bias,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=keys.shape[1] != query.shape[1],
            )
            attended.append(output.transpose(1, 2))
        return torch.cat(attended, dim=1), None

    def _gathered(self, part: torch.Tensor) -> torch.Tensor:
        apply: Any = _Gather.apply  # which torch has not annotated
        whole: torch.Tensor = apply(part, self._group)
        return whole


def split_sequences(model: Any, num_layers: int, group: dist.ProcessGroup) -> Sequences:
    """Have a Hugging Face model attend across the ranks of `group`. Raises ModelUnusable where it cannot."""
    if not hasattr(model, "set_attn_implementation"):
        raise ModelUnusable("context parallelism needs a Hugging Face model, whose attention can be replaced")
    from transformers import AttentionInterface

    sequences = Sequences(group, num_layers)
    AttentionInterface.register(ATTENTION, sequences.attend)
    model.set_attn_implementation(ATTENTION)
    return sequences
