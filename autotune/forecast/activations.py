"""Bytes of activations: what a layer holds for its backward, and what its backward needs beside."""

from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np

from autotune.forecast import layers
from autotune.forecast.case import Case
from autotune.forecast.formats import AUTOCAST, HALF, SINGLE, Floats
from autotune.forecast.layers import Kept
from autotune.models.shape import ModelShape
from search_spaces.columns import Mask

MODES = (HALF, SINGLE, AUTOCAST)


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
    """The activation bytes of every row."""
    eager, compiled = case.has("attention", "eager"), case.has("compile", True)
    whole = np.where(eager, _bytes(case, _layer_written_out), _bytes(case, _layer))
    if compiled.any():
        whole = np.where(compiled & ~eager, _bytes(case, layers.compiled), whole)
    masked = _masked(case) & ~eager
    share = np.where(case.checkpoints, 1.0, case.shape.windowed_layers / case.shape.num_layers)
    whole = whole + masked * share * _bytes(case, layers.masked)
    kept = case.looked_up("activation_checkpointing", {"none": 0, "selective": 1, "full": 2})
    selective = np.where(eager, _bytes(case, layers.selective_written_out), _bytes(case, layers.selective))
    if compiled.any():
        selective = np.where(compiled, _bytes(case, layers.selective_compiled), selective)
    saved = np.where(kept == 0, whole, np.where(kept == 1, selective, _bytes(case, layers.input_alone)))
    already = _bytes(case, layers.not_recomputed), _bytes(case, layers.not_held_twice)
    return Activations(
        saved=saved,
        recomputed=np.where(kept == 0, 0.0, whole - np.where(kept == 1, *already)),
        touched=whole,
        product=_bytes(case, layers.product_backward),
        down=_bytes(case, layers.down_backward),
        experts=_bytes(case, layers.experts_backward),
        other=np.maximum.reduce(
            [
                _bytes(case, layers.norm_after_backward),
                _bytes(case, layers.routing_backward),
                np.where(eager, _bytes(case, layers.scores_backward), 0.0),
            ]
        ),
        in_forward=eager
        * (_bytes(case, layers.attention_without_scores) + _bytes(case, layers.scores_forward)),
        masks=np.where(eager, _bytes(case, layers.masks), masked * case.sequence**2),
        stream=_bytes(case, layers.input_alone),
        final_norm=_bytes(case, layers.final_norm),
        head=_bytes(case, layers.final_norm_backward),
    )


def _masked(case: Case) -> Mask:
    """Whether some layer's attention looks back over less than the sequence."""
    window = case.shape.sliding_window
    return case.sequence >= (np.inf if window is None else window)


def _layer(shape: ModelShape, mode: int) -> Kept:
    return layers.attention(shape, mode) + layers.feed_forward(shape, mode)


def _layer_written_out(shape: ModelShape, mode: int) -> Kept:
    return layers.attention_written_out(shape, mode) + layers.feed_forward(shape, mode)


def _bytes(case: Case, term: Callable[[ModelShape, int], Kept]) -> Floats:
    """A term of one layer, in each row's mode and for its tokens.

    With sequence parallelism tensor-parallel ranks divide the residual stream as well, and gather it for the
    matmuls (Korthikanti et al. 2022).
    """
    of_mode = np.array([astuple(term(case.shape, mode)) for mode in MODES])
    gathered, split, per_key = of_mode[case.mode].T
    bytes_: Floats = (gathered + (split + per_key * case.sequence) / case.tensor) * case.tokens
    return bytes_
