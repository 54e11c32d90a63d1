"""What autograd keeps of one layer, derived from how its family computes it.

Bytes per token that the forward saves for the backward. Each term was traced on transformers 5.23 with
`trials.trace`, and the sums met there to the byte; what is marked *read* or *reasoned* was not. A tensor
counts where an operator saves it: an input of a matmul, both factors of a product, a softmax's output.
"""

from collections.abc import Callable, Mapping
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
    softmax: "Softmax" = "widened"
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


@dataclass(frozen=True)
class Kept:
    """Bytes per token of one layer on one rank."""

    gathered: float
    """Whole on every tensor-parallel rank: what sequence parallelism gathers for the matmuls that read it."""
    split: float
    """What tensor-parallel ranks divide between them."""
    per_key: float = 0.0
    """More, divided likewise, for each token of the sequence: scores of attention that are written out."""

    @property
    def per_token(self) -> tuple[float, float, float]:
        return self.gathered, self.split, self.per_key

    def __add__(self, other: "Kept") -> "Kept":
        return Kept(self.gathered + other.gathered, self.split + other.split, self.per_key + other.per_key)


def nothing(shape: ModelShape, mode: int) -> Kept:
    return Kept(0, 0)


def norm(shape: ModelShape, mode: int, readers: int) -> Kept:
    """What a norm keeps, with what `readers` matmuls keep of its output.

    They share it, but for autocast, which casts it for each anew.
    """
    kind = style_of(shape).norm
    output = 2 * readers if mode == AUTOCAST else COMPUTED[mode] * min(readers, 1)
    own = NORM_INPUT[kind][mode] * shape.hidden_size + NORM_STATISTICS[kind]
    return Kept(output * shape.hidden_size, own)


def attention(shape: ModelShape, mode: int) -> Kept:
    """The norm before it, query, key, value, output, and the logarithm of each softmax's sum."""
    return _around_attention(shape, mode) + Kept(0, 4 * shape.num_heads)


def attention_written_out(shape: ModelShape, mode: int) -> Kept:
    """The same by eager attention: scores are kept, and keys and values for all heads."""
    return attention_without_scores(shape, mode) + _scores(shape, mode, lambda scores: scores.kept)


def attention_without_scores(shape: ModelShape, mode: int) -> Kept:
    repeated = 2 * COMPUTED[mode] * max(shape.query_size - shape.kv_size, 0)
    with_sinks = style_of(shape).softmax == "with_sinks"
    maxima = 8 * shape.num_heads * with_sinks  # where each row has its largest score
    return _around_attention(shape, mode) + Kept(0, repeated + maxima)


def scores_forward(shape: ModelShape, mode: int) -> Kept:
    """What eager attention needs at most in its forward."""
    return _scores(shape, mode, lambda scores: scores.forward)


def _scores(shape: ModelShape, mode: int, which: Callable[[Scores], int]) -> Kept:
    return Kept(0, 0, per_key=which(SCORES[style_of(shape).softmax][mode]) * shape.num_heads)


def _around_attention(shape: ModelShape, mode: int) -> Kept:
    style, size = style_of(shape), COMPUTED[mode]
    q, k = shape.query_size, shape.kv_size
    split = size * (2 * q + 2 * k)
    if style.fused_qkv:
        split += size * (2 * q + k)
    if style.qk_norm:
        of_heads = NORM_INPUT[style.norm][SINGLE if mode == SINGLE else HALF]
        split += of_heads * (q + k) + NORM_STATISTICS[style.norm] * (shape.num_heads + shape.num_kv_heads)
    return _norms(shape, mode, style.attention_readers) + Kept(0, split)


def _norms(shape: ModelShape, mode: int, readers: int) -> Kept:
    """The norm before a part of the layer and, where the family has one, that after it."""
    before = norm(shape, mode, readers)
    return before + norm(shape, mode, 0) if style_of(shape).norms_after else before


def masked(shape: ModelShape, mode: int) -> Kept:
    """More for fused attention that looks back over a window shorter than the sequence.

    It is told so by a mask in the format of the queries, and given keys and values for all heads.
    """
    size = COMPUTED[mode]
    return Kept(0, 2 * size * max(shape.query_size - shape.kv_size, 0), per_key=size)


def feed_forward(shape: ModelShape, mode: int) -> Kept:
    """The norm before it, and the tensors of its width."""
    style = style_of(shape)
    routed = shape.num_experts > 1
    norms = _norms(shape, mode, 1 if routed else style.feed_forward_readers)
    widths = style.activation_copies * shape.intermediate_size
    if not routed:
        return norms + Kept(0, COMPUTED[mode] * widths)
    # Each expert of a token is handed a copy of it and returns another. Autocast does not reach experts.
    per_expert = STREAM[mode] * (widths + 2 * shape.hidden_size) + 8 * style.router_copies
    return norms + Kept(0, shape.experts_per_token * per_expert + _router(shape, mode))


def _router(shape: ModelShape, mode: int) -> float:
    style, chosen = style_of(shape), shape.experts_per_token
    if style.softmax_over_chosen:
        return 2 * COMPUTED[mode] * chosen
    weights = 2 * 4 * chosen + 4 if style.routes_in_fp32 else COMPUTED[mode] * chosen
    return 4 * shape.num_experts + weights


def keeps_its_input(shape: ModelShape, mode: int) -> bool:
    """Whether what the first norm saves is the layer's input itself, not a copy of it."""
    return mode != HALF or style_of(shape).norm == "layer"


def not_held_twice(shape: ModelShape, mode: int) -> Kept:
    """Of a layer that is recomputed, what is kept already: its input, unless a copy of it is saved."""
    return Kept(0, STREAM[mode] * shape.hidden_size * keeps_its_input(shape, mode))


def not_recomputed(shape: ModelShape, mode: int) -> Kept:
    """The same under selective checkpointing, which takes what it kept for the same tensors again."""
    return _not_recomputed(shape, mode, selective(shape, mode))


def not_recomputed_written_out(shape: ModelShape, mode: int) -> Kept:
    """The same with eager attention."""
    return _not_recomputed(shape, mode, selective_written_out(shape, mode))


def _not_recomputed(shape: ModelShape, mode: int, kept: Kept) -> Kept:
    outputs = kept.split - input_alone(shape, mode).split
    normed = COMPUTED[mode] * shape.hidden_size * style_of(shape).norms_after
    return not_held_twice(shape, mode) + Kept(0, outputs + normed)


def input_alone(shape: ModelShape, mode: int) -> Kept:
    """Under full checkpointing."""
    return Kept(0, STREAM[mode] * shape.hidden_size)


def selective(shape: ModelShape, mode: int) -> Kept:
    """Under selective checkpointing: the input, and outputs of the attention and of every second matmul."""
    return _selective_around_attention(shape, mode) + Kept(
        0, COMPUTED[mode] * shape.query_size + 4 * shape.num_heads
    )


def selective_written_out(shape: ModelShape, mode: int) -> Kept:
    """The same with eager attention, whose matmuls are batched ones and recomputed."""
    return _selective_around_attention(shape, mode)


def _selective_around_attention(shape: ModelShape, mode: int) -> Kept:
    size, kept = COMPUTED[mode], _matmul_outputs(shape)[::2]
    whole = sum(width for width, splits in kept if not splits)
    return input_alone(shape, mode) + Kept(
        size * whole, size * sum(width for width, splits in kept if splits)
    )


def _matmul_outputs(shape: ModelShape) -> list[tuple[int, bool]]:
    """Features of each matmul's output, in order, and whether tensor parallelism splits it."""
    style, f = style_of(shape), shape.intermediate_size
    q, k = (shape.query_size, True), (shape.kv_size, True)
    back = (shape.hidden_size, False)
    qkv = [(q[0] + 2 * k[0], True)] if style.attention_readers == 1 else [q, k, k]
    if shape.num_experts > 1:  # the experts' are grouped ones
        return [*qkv, back, (shape.num_experts, False)]
    gated = [(2 * f, True)] if style.feed_forward_readers == 1 else [(f, True)] * 2
    return [*qkv, back, *(gated if shape.gated_mlp else [(f, True)]), back]


def selective_compiled(shape: ModelShape, mode: int) -> Kept:
    """The same through torch.compile, which sees that nobody reads the last output in the backward."""
    eager = selective(shape, mode)
    unread = COMPUTED[mode] * shape.hidden_size * (shape.num_experts == 1)
    return Kept(eager.gathered - unread, eager.split)


def compiled(shape: ModelShape, mode: int) -> Kept:
    """A layer whose elementwise operators torch.compile fuses, taken to keep what Megatron-LM's kernels do.

    Of a norm its input alone, of the feed-forward part no activation of the gate. Read in Megatron-LM for
    bf16; the other modes reasoned from it.
    """
    size, whole = COMPUTED[mode], attention(shape, mode) + feed_forward(shape, mode)
    normed = NORM_INPUT[style_of(shape).norm][mode] - STREAM[mode]
    fewer = 2 * normed * shape.hidden_size + size * shape.intermediate_size * shape.experts_per_token
    return Kept(whole.gathered, max(whole.split - fewer, 0))


def final_norm(shape: ModelShape, mode: int) -> Kept:
    """The norm before the head."""
    return norm(shape, mode, 1)


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
    if shape.num_experts == 1:
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
    if shape.num_experts > 1:
        of_experts = copies * shape.intermediate_size - shape.hidden_size
        return Kept(0, stream + STREAM[mode] * shape.experts_per_token * of_experts)
    gone = norm(shape, mode, 0).split * style.norms_after
    return Kept(0, stream + copies * COMPUTED[mode] * shape.intermediate_size - gone)


def down_backward(shape: ModelShape, mode: int) -> Kept:
    """Gradients alive while the last matmul goes backward: of its output, cast under autocast, and input."""
    h, f = shape.hidden_size, shape.intermediate_size
    if shape.num_experts > 1:
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
    more = _scores(shape, mode, lambda scores: scores.backward - scores.kept)
    of_output_and_values = 2 * COMPUTED[mode] * shape.query_size
    stream = STREAM[mode] * shape.hidden_size
    return Kept(-back.gathered, stream + of_output_and_values - back.split) + more


def masks(shape: ModelShape, mode: int) -> Kept:
    """What eager attention adds to its scores: one for each kind of layer, for the whole model."""
    kinds = 2 if 0 < shape.windowed_layers < shape.num_layers else 1
    return Kept(0, 0, per_key=STREAM[mode] * kinds)
