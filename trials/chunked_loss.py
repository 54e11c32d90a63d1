"""The loss without the logits of a whole microbatch: some of its tokens at a time, recomputed backwards."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trials.contract.constants import LOSS_CHUNKS
from trials.model import BuiltModel, ModelUnusable

IGNORED = -100
"""Label of a token that counts for nothing, transformers' and PyTorch's."""


class ChunkedHead(nn.Linear):
    """In the head's place, with its parameters. Given hidden states alone it hands them on."""

    def __init__(self, head: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = head.in_features, head.out_features
        self.weight, self.bias = head.weight, head.bias

    def forward(self, input: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        """With the targets of tokens, the sum of their cross-entropies."""
        if targets is None:
            return input
        logits = super().forward(input).float()
        return functional.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)


def chunk_loss(built: BuiltModel) -> None:
    """Have a Hugging Face model multiply with its head inside the loss, chunk by chunk.

    Raises ModelUnusable for a model whose logits are more than its head's output, or that is a factory's.
    """
    model: Any = built.module
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if type(head) is not nn.Linear or not hasattr(model, "loss_function"):
        raise ModelUnusable("loss=chunked needs a Hugging Face model whose head is an nn.Linear")
    if getattr(model.config, "final_logit_softcapping", None):
        raise ModelUnusable("loss=chunked would miss the cap on this model's logits; use loss=eager")
    chunked = ChunkedHead(head)
    model.set_output_embeddings(chunked)

    def loss_function(logits: torch.Tensor, labels: torch.Tensor, *_: Any, **_kwargs: Any) -> torch.Tensor:
        return mean_cross_entropy(chunked, logits, labels)

    model.loss_function = loss_function


def mean_cross_entropy(head: ChunkedHead, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of each token given those before it; hidden states (B, S, h), labels (B, S)."""
    targets = functional.pad(labels, (0, 1), value=IGNORED)[:, 1:].flatten()
    parts = zip(hidden.flatten(0, 1).chunk(LOSS_CHUNKS), targets.chunk(LOSS_CHUNKS), strict=True)
    # By a call of the head, at which engines that shard it gather its weight.
    sums = [checkpoint(head, part, target, use_reentrant=False) for part, target in parts]
    return torch.stack(sums).sum() / (targets != IGNORED).sum()
