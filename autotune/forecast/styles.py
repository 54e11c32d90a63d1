"""How each family of models computes a layer, as far as it decides what autograd keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from autotune.forecast.formats import AUTOCAST, HALF, SINGLE
from autotune.models.shape import ModelShape

COMPUTED = {HALF: 2, SINGLE: 4, AUTOCAST: 2}
"""Mode → bytes of a number in and after a matmul."""
STREAM = {HALF: 2, SINGLE: 4, AUTOCAST: 4}
"""Mode → bytes of a number in the residual stream, which autocast leaves in the format of the weights."""

Norm = Literal["rms", "wide_rms", "layer"]
NORM_INPUT: Mapping[Norm, Mapping[int, int]] = MappingProxyType(
    {
        # An fp32 copy of the input, and what it was normalised to, in the format of the input.
        "rms": {HALF: 4 + 2, SINGLE: 4 + 4, AUTOCAST: 4 + 4},
        # It multiplies by the weight in fp32, before it goes back to the format of the input.
        "wide_rms": {HALF: 4 + 4, SINGLE: 4 + 4, AUTOCAST: 4 + 4},
        "layer": {HALF: 2, SINGLE: 4, AUTOCAST: 4},
    }
)
"""Norm and mode → bytes per feature."""
NORM_PRODUCT: Mapping[Norm, Mapping[int, int]] = MappingProxyType(
    {
        "rms": {HALF: 2, SINGLE: 4, AUTOCAST: 4},
        "wide_rms": {HALF: 4, SINGLE: 4, AUTOCAST: 4},
        "layer": {HALF: 0, SINGLE: 0, AUTOCAST: 0},
    }
)
"""Of these, what is kept for the gradient of the norm's weight alone."""
NORM_STATISTICS: Mapping[Norm, int] = MappingProxyType({"rms": 4, "wide_rms": 4, "layer": 8})
"""Bytes per token: a reciprocal root in fp32, or a mean and one."""

Softmax = Literal["widened", "softcapped", "as_it_is", "with_sinks"]


@dataclass(frozen=True)
class Scores:
    """Bytes per score of eager attention."""

    kept: int
    forward: int
    """Alive at most in its forward, with what is kept."""
    backward: int
    """Alive at most in its backward, with what was kept."""


SCORES: Mapping[Softmax, Mapping[int, Scores]] = MappingProxyType(
    {
        # In fp32, and cast back.
        "widened": {HALF: Scores(6, 10, 12), SINGLE: Scores(4, 8, 12), AUTOCAST: Scores(6, 8, 12)},
        # The same after a tanh.
        "softcapped": {HALF: Scores(8, 10, 14), SINGLE: Scores(8, 8, 16), AUTOCAST: Scores(8, 8, 14)},
        # In the format of the scores.
        "as_it_is": {HALF: Scores(2, 4, 6), SINGLE: Scores(4, 8, 12), AUTOCAST: Scores(6, 8, 12)},
        # The same with one more score per head, and the largest taken off first.
        "with_sinks": {HALF: Scores(2, 6, 6), SINGLE: Scores(4, 12, 12), AUTOCAST: Scores(6, 14, 14)},
    }
)


@dataclass(frozen=True)
class Style:
    """How a family computes a layer, as far as it decides what is kept. The defaults are Llama's."""

    norm: Norm = "rms"
    norms_after: bool = False
    """Attention and feed-forward are followed by a norm too."""
    qk_norm: bool = False
    attention_readers: int = 3
    """Matmuls that read the norm before the attention: query, key and value, or one for all."""
    feed_forward_readers: int = 2
    """Matmuls that read the norm before the feed-forward part: gate and up, or one."""
    fused_qkv: bool = False
    """Query, key and value are views of one matmul's output, and rotated copies are made beside it."""
    softmax: Softmax = "widened"
    """What eager attention makes of its scores."""
    activation_copies: int = 4
    """Tensors of feed-forward width that are kept: gate, its activation, up, their product."""
    gradient_copies: int = 2
    """Gradients of feed-forward width at their most, less what is given back: of the product's factors."""
    recomputed_copies: int = 0
    """Tensors of feed-forward width that a forward holds beside what it keeps, when the product is made."""
    router_copies: int = 4
    """Indices of 8 bytes kept for each expert that serves a token: chosen, sorted, its token, its place."""
    routes_in_fp32: bool = False
    """The weights of a token's experts are fp32, and kept with their sum."""
    softmax_over_chosen: bool = False
    """The router's softmax is over the experts of a token alone."""


STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "qwen3": Style(qk_norm=True),
        "qwen3_moe": Style(qk_norm=True),
        "mixtral": Style(routes_in_fp32=True),
        "gpt_oss": Style(
            norm="wide_rms",
            softmax="with_sinks",
            activation_copies=7,  # clamped twice, and gated by a sigmoid
            recomputed_copies=3,  # the gathered biases of gate and up, and the gate before it is clamped
            router_copies=5,
            softmax_over_chosen=True,
        ),
        "phi3": Style(attention_readers=1, feed_forward_readers=1, fused_qkv=True),
        "gemma": Style(norm="wide_rms"),
        "gemma2": Style(norm="wide_rms", norms_after=True, softmax="softcapped"),
        "gemma3_text": Style(norm="wide_rms", norms_after=True, qk_norm=True),
        # Its gelu is four Python operators.
        "gpt2": Style(
            norm="layer",
            attention_readers=1,
            feed_forward_readers=1,
            softmax="as_it_is",
            activation_copies=5,
        ),
        "starcoder2": Style(norm="layer", feed_forward_readers=1, activation_copies=2, gradient_copies=1),
    }
)
"""Model types that are not as Llama."""
UNGATED = Style(norm="layer", feed_forward_readers=1, activation_copies=2, gradient_copies=1)
"""What an unknown model without a gate is taken for."""


def style_of(shape: ModelShape) -> Style:
    return STYLES.get(shape.model_type, Style() if shape.gated_mlp else UNGATED)
