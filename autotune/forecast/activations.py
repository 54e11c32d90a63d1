"""Bytes of activations: what a layer holds for its backward, and what its backward needs beside."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotune.forecast import layer_gradients, layers
from autotune.forecast.case import Case
from autotune.forecast.formats import AUTOCAST, HALF, SINGLE, Floats, Indices
from autotune.forecast.layers import Kept
from autotune.forecast.measured import MeasuredTerms
from autotune.models.shape import ModelShape
from search_spaces.columns import Mask

MODES = (HALF, SINGLE, AUTOCAST)
ONE_TERM = np.zeros(1, dtype=np.intp)

Term = Callable[[ModelShape, int], Kept]
"""Shape and mode → bytes per token of one layer."""


@dataclass(frozen=True)
class Activations:
    """Bytes of one layer for one microbatch on one rank, arrays of shape (n,) or (1,)."""

    saved: Floats
    """Under the row's checkpointing."""
    recomputed: Floats
    """What a layer that is being recomputed holds; 0 without checkpointing."""
    touched: Floats
    """What its forward writes, checkpointed or not: the measure of its elementwise work."""
    product: Floats
    """On top of them while the feed-forward part's product goes backward; its last weight has a gradient."""
    down: Floats
    """On top of them while its last matmul goes backward, and makes that gradient."""
    experts: Floats
    """On top of them, less what is given back by then, while experts' first matmul goes backward."""
    attention: Floats
    """While the attention goes backward, when all gradients of the feed-forward part are there."""
    other: Floats
    """The most of any other moment of its backward."""
    in_forward: Floats
    """What eager attention holds in a layer's forward, when the feed-forward part is yet to come."""
    masks: Floats
    """For the whole model, while a layer's forward is still to come."""
    stream: Floats
    """The residual stream, or its gradient."""
    final_norm: Floats
    head: Floats
    """On top of the saved ones while the final norm goes backward."""


def activations(case: Case) -> Activations:
    """The activation bytes of every row; of a model that was measured, `measured_phases` has the others."""
    derived = _derived(case)
    if case.shape.measured is not None:
        terms = MeasuredTerms(case, case.shape.measured)
        derived = replace(derived, saved=terms.kept, touched=terms.touched)
    more = more_of_attention(case)
    return replace(
        derived,
        saved=derived.saved + ~case.checkpoints * more,
        recomputed=derived.recomputed + case.checkpoints * more,
    )


def more_of_attention(case: Case) -> Floats:
    """What attention keeps more on context-parallel ranks: the keys and values of the others, and its output
    for an early and a late piece of the sequence beside the two joined.
    """
    joined = case.bytes.compute * case.shape.query_size * case.tokens / case.tensor
    return (case.context > 1) * (whole_keys(case) * (1 - 1 / case.context) + joined)


def whole_keys(case: Case) -> Floats:
    """Keys and values of one layer for the whole sequence."""
    return 2 * case.bytes.compute * case.shape.kv_size * case.micro_batch * case.sequence / case.tensor


def _derived(case: Case) -> Activations:
    eager, compiled = 1 * case.has("attention", "eager"), 1 * case.has("compile", True)
    checkpointing = case.looked_up("activation_checkpointing", {"none": 0, "selective": 1, "full": 2}).astype(
        np.intp
    )
    whole = _bytes(case, (_layer, _layer_written_out, layers.compiled), np.where(eager, 1, 2 * compiled))
    by_mask = masked(case) & case.has("attention", "sdpa")
    if by_mask.any():
        share = np.where(case.checkpoints, 1.0, case.shape.windowed_layers / case.shape.num_layers)
        whole = whole + by_mask * share * _bytes(case, (layers.masked,))
    shared = case.has("precision", "fp8") & case.autocasts
    whole = whole + adapters(case) + shared * _bytes(case, (layers.shared_by_float8,))
    kept = _bytes(
        case,
        (layers.selective, layers.selective_written_out, layers.selective_compiled, layers.input_alone),
        np.where(checkpointing == 2, 3, np.where(eager, 1, 2 * compiled)),
    )
    already = _bytes(
        case,
        (
            layers.nothing,
            layers.not_recomputed,
            layers.not_held_twice,
            layers.not_recomputed_written_out,
        ),
        np.where((checkpointing == 1) & (eager == 1), 3, checkpointing),
    )
    of_adapters = case.is_lora * (checkpointing == 1) * _bytes(case, (layers.selective_of_adapters,))
    kept, already = kept + of_adapters, already + of_adapters
    return Activations(
        saved=np.where(case.checkpoints, kept, whole),
        recomputed=case.checkpoints * (whole - already),
        touched=whole,
        product=_bytes(case, (layer_gradients.product_backward,)),
        down=_bytes(case, (layer_gradients.down_backward,)),
        experts=_bytes(case, (layer_gradients.experts_backward,)),
        attention=_bytes(case, (layer_gradients.attention_backward, layer_gradients.scores_backward), eager),
        other=np.maximum(
            np.maximum(
                _bytes(case, (layer_gradients.norm_after_backward,)),
                _bytes(case, (layer_gradients.routing_backward,)),
            ),
            _bytes(case, (layers.nothing, layer_gradients.product_recomputed), 1 * case.checkpoints),
        ),
        in_forward=_bytes(case, (layers.nothing, _attention_forward), eager),
        masks=_bytes(case, (layers.nothing, layers.masks), eager) + by_mask * case.sequence**2,
        stream=_bytes(case, (layers.input_alone,)),
        final_norm=np.where(case.is_lora, _final_norm_frozen(case), _bytes(case, (layers.final_norm,))),
        head=_bytes(case, (layer_gradients.final_norm_backward,)),
    )


def adapters(case: Case) -> Floats:
    """More of a layer under LoRA, in whose linears the adapters' own inputs and outputs are few numbers."""
    if not case.is_lora.any():
        return np.zeros(1)
    numbers = layers.num_linears(case.shape) * case.count("lora_rank") * case.tokens / case.tensor
    more = _bytes(case, (layers.adapted,)) + case.bytes.compute * numbers
    return case.is_lora * (more + case.casts_adapters * _bytes(case, (layers.cast_for_adapters,)))


def _final_norm_frozen(case: Case) -> Floats:
    """Of the norm before a frozen head, which keeps no input; less what the first norm would keep."""
    of_a_norm = _bytes(case, (layers.first_norm,))
    return of_a_norm * case.checkpoints


def masked(case: Case) -> Mask:
    """Whether some layer's attention looks back over less than the sequence."""
    window = case.shape.sliding_window
    return case.sequence >= (np.inf if window is None else window)


def _layer(shape: ModelShape, mode: int) -> Kept:
    return layers.attention(shape, mode) + layers.feed_forward(shape, mode)


def _layer_written_out(shape: ModelShape, mode: int) -> Kept:
    return layers.attention_written_out(shape, mode) + layers.feed_forward(shape, mode)


def _attention_forward(shape: ModelShape, mode: int) -> Kept:
    return layers.attention_without_scores(shape, mode) + layers.scores_forward(shape, mode)


def _bytes(case: Case, terms: Sequence[Term], which: Indices = ONE_TERM) -> Floats:
    """The term of one layer that `which` picks for each row, in the row's mode and for its tokens.

    With sequence parallelism tensor-parallel ranks divide the residual stream as well, and gather it for the
    matmuls (Korthikanti et al. 2022).
    """
    table = np.array([term(case.shape, mode).per_token for term in terms for mode in MODES])
    if not table.any():
        return np.zeros(1)
    row = which * len(MODES) + case.mode
    gathered, split, per_key = (column[row] for column in np.ascontiguousarray(table.T))
    if table[:, 2].any():
        split = split + per_key * case.sequence
    bytes_: Floats = (gathered + split / case.tensor) * case.tokens
    return bytes_
