"""Bytes that a layer saves for its backward, per token.

Coefficients of hidden size h, query size q, key-value size k, feed-forward width f, heads a and scores
(a × sequence), traced with saved-tensor hooks on transformers 5.23 unless a row says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from autotune.forecast.case import Case
from autotune.forecast.formats import Floats, Indices
from autotune.models.shape import ModelShape


@dataclass(frozen=True)
class Saved:
    """Bytes per token and unit of each size."""

    h: float = 0
    q: float = 0
    k: float = 0
    f: float = 0
    a: float = 0
    scores: float = 0
    one: float = 0


Modes = tuple[Saved, Saved, Saved]
"""In HALF, SINGLE and AUTOCAST (`formats`)."""

LLAMA: Modes = (Saved(16, 4, 4, 8, 4, 0, 8), Saved(24, 8, 8, 16, 4, 0, 8), Saved(26, 4, 4, 8, 4, 0, 8))
UNGATED: Modes = (Saved(16, f=10, a=4, one=16), Saved(32, f=20, a=4, one=16), Saved(20, f=10, a=4, one=16))
"""GPT-2: 56h with f = 4h, of which its Python gelu is 40h."""
GEMMA2: Modes = (
    Saved(44, f=8, scores=8, one=16),
    Saved(66, f=16, scores=12, one=16),  # reasoned from the bf16 row
    Saved(50, f=8, scores=8, one=16),
)
"""Eager attention with a softcap, and q = h."""
FAMILIES: Mapping[str, Modes] = MappingProxyType({"gemma2": GEMMA2})
"""Model types with a row of their own; the others are like Llama or, ungated, like GPT-2."""

EAGER_SCORES = (6.0, 8.0, 6.0)
"""Per mode and score: softmax in fp32 and its copy in the compute format. Reasoned; Gemma 2's traced 8
is this and the softcap's 2."""
REPEATED_KV = (4.0, 8.0, 4.0)
"""Per mode and unit of q − k: keys and values repeated to all heads, which eager attention needs."""
SELECTIVE: Modes = (Saved(10, k=2, f=2, a=4), Saved(20, k=4, f=4, a=4), Saved(14, k=2, f=2, a=4))
"""torchtitan's per-operator policy; bf16 traced, the others reasoned from it."""
SELECTIVE_FUSED: Modes = (Saved(8, k=2, f=2, a=4), Saved(16, k=4, f=4, a=4), Saved(12, k=2, f=2, a=4))
"""The same where torch.compile fuses what precedes a saved tensor."""
FUSED: Modes = (Saved(8, 4, 4, 6, 4, 0, 8), Saved(16, 8, 8, 12, 4, 0, 8), Saved(10, 4, 4, 6, 4, 0, 8))
"""Compiled layers, taken to save what Megatron-LM's fused kernels do. Read; the last two reasoned."""
FULL: Modes = (Saved(2), Saved(4), Saved(4))
FINAL_NORM = (8.0, 12.0, 10.0)
"""Per mode, token and hidden unit."""
BACKWARD_TRANSIENT: Modes = (Saved(2, f=4), Saved(4, f=8), Saved(6, f=4))
"""Gradients alive while a layer's backward runs."""


@dataclass(frozen=True)
class Activations:
    """Bytes of one layer for one microbatch on one rank, arrays of shape (n,) or (1,)."""

    saved: Floats
    """Under the row's checkpointing."""
    recomputed: Floats
    """What a layer that is being recomputed holds; 0 without checkpointing."""
    touched: Floats
    """What its forward writes, checkpointed or not: the measure of its elementwise work."""
    transient: Floats
    """On top of them while its backward runs."""
    final_norm: Floats


def activations(case: Case) -> Activations:
    """The activation bytes of every row."""
    eager, compiled = case.has("attention", "eager"), case.has("compile", True)
    whole = _bytes(case, _uncheckpointed(case.shape), compiled * 2 + eager)
    kept_row = case.looked_up("activation_checkpointing", {"none": 0, "selective": 0, "full": 2})
    kept = _bytes(case, (SELECTIVE, SELECTIVE_FUSED, FULL, FULL), kept_row.astype(np.intp) + compiled)
    return Activations(
        saved=np.where(case.checkpoints, kept, whole),
        recomputed=np.where(case.checkpoints, whole, 0.0),
        touched=whole,
        transient=_bytes(case, (BACKWARD_TRANSIENT,), np.zeros(1, dtype=np.intp)),
        final_norm=np.array(FINAL_NORM)[case.mode] * case.shape.hidden_size * case.tokens,
    )


def _uncheckpointed(shape: ModelShape) -> tuple[Modes, Modes, Modes, Modes]:
    """Rows of a whole layer, by attention and compilation: fused, eager, both again compiled."""
    plain = FAMILIES.get(shape.model_type, LLAMA if shape.gated_mlp else UNGATED)
    fused = FUSED if shape.gated_mlp and shape.model_type not in FAMILIES else plain
    return plain, _with_scores(shape, plain), fused, _with_scores(shape, fused)


def _with_scores(shape: ModelShape, rows: Modes) -> Modes:
    """The rows with eager attention's scores, which a family's own row may have already."""
    if rows[0].scores:
        return rows
    repeated = max(shape.query_size - shape.kv_size, 0) / shape.query_size
    half, single, autocast = (
        Saved(row.h, row.q + REPEATED_KV[mode] * repeated, row.k, row.f, row.a, EAGER_SCORES[mode], row.one)
        for mode, row in enumerate(rows)
    )
    return half, single, autocast


def _bytes(case: Case, variants: tuple[Modes, ...], variant: Indices) -> Floats:
    """Bytes of one layer: the coefficients of each row's variant and mode, times the sizes.

    Without sequence parallelism every tensor-parallel rank keeps the whole residual stream (h), and its
    share of everything else (Korthikanti et al. 2022).
    """
    flat = [row for modes in variants for row in modes]
    stream = np.array([_stream(row, case.shape) for row in flat])
    split = np.array([_split(row, case.shape) for row in flat])
    scores = np.array([row.scores * case.shape.num_heads for row in flat])
    index = variant * len(variants[0]) + case.mode
    per_token: Floats = stream[index] + (split[index] + scores[index] * case.sequence) / case.tensor
    return per_token * case.tokens


def _stream(row: Saved, shape: ModelShape) -> float:
    """Residual stream; Mixtral adds what each expert of a token reads and returns (4 bytes in bf16)."""
    experts = shape.experts_per_token if shape.num_experts > 1 else 0
    return (row.h + row.f / 2 * experts) * shape.hidden_size


def _split(row: Saved, shape: ModelShape) -> float:
    """Everything else but the scores."""
    return (
        row.q * shape.query_size
        + row.k * shape.kv_size
        + row.f * shape.intermediate_size * shape.experts_per_token
        + row.a * shape.num_heads
        + row.one
    )
