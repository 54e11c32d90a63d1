"""Gradients, and what else is alive beside what a layer keeps, at moments of its backward.

Bytes per token, traced as what is kept is (`layers.py`); less what the layer has given back by then.
"""

from autotune.forecast.formats import AUTOCAST, HALF
from autotune.forecast.layers import Kept, feed_forward, norm, of_scores
from autotune.forecast.styles import COMPUTED, STREAM, style_of
from autotune.models.shape import ModelShape


def final_norm_backward(shape: ModelShape, mode: int) -> Kept:
    """Gradients alive while the final norm goes backward, with what it saved."""
    per_feature = 2 * STREAM[mode] if style_of(shape).norm == "layer" else 18
    return Kept(0, per_feature * shape.hidden_size)


def norm_after_backward(shape: ModelShape, mode: int) -> Kept:
    """Gradients alive while the norm after the feed-forward part goes backward, the first of its layer."""
    per_feature = 18 if mode == HALF else 20
    return Kept(0, per_feature * shape.hidden_size * style_of(shape).norms_after)


def routing_backward(shape: ModelShape, mode: int) -> Kept:
    """Gradients alive while what the experts returned is weighted: of the result, and of both factors.

    With weights in fp32 the weighted are too.
    """
    if not shape.stacks_experts:
        return Kept(0, 0)
    weighted = 4 if style_of(shape).routes_in_fp32 else STREAM[mode]
    return Kept(0, shape.hidden_size * (STREAM[mode] + 3 * shape.experts_per_token * weighted))


def product_recomputed(shape: ModelShape, mode: int) -> Kept:
    """What a recomputed forward holds when the product is made.

    Experts have returned nothing yet, but what is handed to them is there twice.
    """
    copies = style_of(shape).recomputed_copies
    if not copies:
        return Kept(0, 0)
    of_experts = shape.experts_per_token * copies * shape.intermediate_size
    return Kept(0, STREAM[mode] * (shape.hidden_size + of_experts))


def experts_backward(shape: ModelShape, mode: int) -> Kept:
    """The same while the experts' first matmul goes backward, less what is given back by then."""
    width = STREAM[mode] * shape.experts_per_token * shape.intermediate_size
    return Kept(0, STREAM[mode] * shape.hidden_size - 2 * width)


def product_backward(shape: ModelShape, mode: int) -> Kept:
    """Gradients alive while the product of gate and up goes backward, when all of the layer is still kept.

    Of the residual stream, of the product, which itself has gone, and of its factors. Experts have given
    back what they returned, and a norm after them what it kept.
    """
    style, stream = style_of(shape), STREAM[mode] * shape.hidden_size
    copies = style.gradient_copies
    if shape.stacks_experts:
        of_experts = copies * shape.intermediate_size - shape.hidden_size
        return Kept(0, stream + STREAM[mode] * shape.experts_per_token * of_experts)
    gone = norm(shape, mode, 0).split * style.norms_after
    return Kept(0, stream + copies * COMPUTED[mode] * shape.intermediate_size - gone)


def down_backward(shape: ModelShape, mode: int) -> Kept:
    """Gradients alive while the last matmul goes backward: of its output, cast under autocast, and input."""
    h, f = shape.hidden_size, shape.intermediate_size
    if shape.stacks_experts:
        return Kept(0, STREAM[mode] * (h + shape.experts_per_token * (f + h)))
    cast = COMPUTED[mode] * (mode == AUTOCAST)
    gone = norm(shape, mode, 0).split * style_of(shape).norms_after
    return Kept(0, (STREAM[mode] + cast) * h + COMPUTED[mode] * f - gone)


def attention_backward(shape: ModelShape, mode: int) -> Kept:
    """Gradients alive while fused attention goes backward, less what the feed-forward part has given back."""
    back = feed_forward(shape, mode)
    of_output_and_inputs = 2 * COMPUTED[mode] * (shape.query_size + shape.kv_size)
    return Kept(-back.gathered, STREAM[mode] * shape.hidden_size + of_output_and_inputs - back.split)


def scores_backward(shape: ModelShape, mode: int) -> Kept:
    """What eager attention needs more in its backward, less what the feed-forward part has given back."""
    back = feed_forward(shape, mode)
    more = of_scores(shape, mode, lambda scores: scores.backward - scores.kept)
    of_output_and_values = 2 * COMPUTED[mode] * shape.query_size
    stream = STREAM[mode] * shape.hidden_size
    return Kept(-back.gathered, stream + of_output_and_values - back.split) + more
