"""What autograd keeps of one layer, derived from how its family computes it.

Bytes per token that the forward saves for the backward. Each term was traced on transformers 5.23 with
`trials.trace`, and the sums met there to the byte; what is marked *read* or *reasoned* was not. A tensor
counts where an operator saves it: an input of a matmul, both factors of a product, a softmax's output.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autotune.forecast.formats import AUTOCAST, HALF, SINGLE
from autotune.forecast.styles import (
    COMPUTED,
    NORM_INPUT,
    NORM_PRODUCT,
    NORM_STATISTICS,
    SCORES,
    STREAM,
    Scores,
    style_of,
)
from autotune.models.shape import ModelShape


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
    return attention_without_scores(shape, mode) + of_scores(shape, mode, lambda scores: scores.kept)


def attention_without_scores(shape: ModelShape, mode: int) -> Kept:
    repeated = 2 * COMPUTED[mode] * max(shape.query_size - shape.kv_size, 0)
    with_sinks = style_of(shape).softmax == "with_sinks"
    maxima = 8 * shape.num_heads * with_sinks  # where each row has its largest score
    return _around_attention(shape, mode) + Kept(0, repeated + maxima)


def scores_forward(shape: ModelShape, mode: int) -> Kept:
    """What eager attention needs at most in its forward."""
    return of_scores(shape, mode, lambda scores: scores.forward)


def of_scores(shape: ModelShape, mode: int, which: Callable[[Scores], int]) -> Kept:
    """What `which` says of each score of eager attention."""
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
    routed = shape.stacks_experts
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
    return input_alone(shape, mode) + _outputs(_matmul_outputs(shape)[::2], mode)


def selective_of_adapters(shape: ModelShape, mode: int) -> Kept:
    """More under selective checkpointing with LoRA, where two matmuls of an adapter follow on each.

    Counting goes on through them, so that of one linear both outputs are kept, and of the next only what is
    between its adapter's two.
    """
    outputs = _matmul_outputs(shape)
    with_adapters = [one for output in outputs for one in (output, (0, True), output)]
    plain = _outputs(outputs[::2], mode)
    return _outputs(with_adapters[::2], mode) + Kept(-plain.gathered, -plain.split)


def _outputs(outputs: Sequence[tuple[int, bool]], mode: int) -> Kept:
    whole = sum(width for width, splits in outputs if not splits)
    return Kept(COMPUTED[mode] * whole, COMPUTED[mode] * sum(width for width, splits in outputs if splits))


def _matmul_outputs(shape: ModelShape) -> list[tuple[int, bool]]:
    """Features of each matmul's output, in order, and whether tensor parallelism splits it."""
    style, f = style_of(shape), shape.intermediate_size
    q, k = (shape.query_size, True), (shape.kv_size, True)
    back = (shape.hidden_size, False)
    qkv = [(q[0] + 2 * k[0], True)] if style.attention_readers == 1 else [q, k, k]
    if shape.stacks_experts:  # the experts' are grouped ones
        return [*qkv, back, (shape.num_experts, False)]
    gated = [(2 * f, True)] if style.feed_forward_readers == 1 else [(f, True)] * 2
    return [*qkv, back, *(gated if shape.gated_mlp else [(f, True)]), back]


def selective_compiled(shape: ModelShape, mode: int) -> Kept:
    """The same through torch.compile, which sees that nobody reads the last output in the backward."""
    eager = selective(shape, mode)
    unread = COMPUTED[mode] * shape.hidden_size * (not shape.stacks_experts)
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


def adapted(shape: ModelShape, mode: int) -> Kept:
    """More, or mostly less, of a layer whose weights are frozen and have LoRA adapters beside them.

    A norm multiplies by a weight without gradient, so it keeps no copy of what it multiplied. What linears
    read is kept as ever, by the adapters.
    """
    style = style_of(shape)
    norms = 4 if style.norms_after else 2
    less = NORM_PRODUCT[style.norm][mode] * norms * shape.hidden_size
    if style.qk_norm:
        less += NORM_PRODUCT[style.norm][SINGLE if mode == SINGLE else HALF] * (
            shape.query_size + shape.kv_size
        )
    return Kept(0, -less)


def cast_for_adapters(shape: ModelShape, mode: int) -> Kept:
    """More where adapters are stored in fp32: each is given its input in their format, and casts it back."""
    style = style_of(shape)
    shared = style.attention_readers + style.feed_forward_readers - 2
    return Kept(2 * shared * shape.hidden_size, 2 * shape.query_size)


def shared_by_float8(shape: ModelShape, mode: int) -> Kept:
    """Less where float8 linears under autocast share one cast of a norm's output. Traced."""
    return Kept(-2 * shape.hidden_size, 0)


def num_linears(shape: ModelShape) -> int:
    """Of a layer, experts aside, which are no `nn.Linear`."""
    style = style_of(shape)
    routed = shape.stacks_experts
    return style.attention_readers + 1 + (0 if routed else style.feed_forward_readers + 1)


def widest_matrix(shape: ModelShape) -> int:
    """Features that the hidden ones become in the largest matrix of a layer, experts aside."""
    return max(width for width, splits in _matmul_outputs(shape) if splits)


def first_norm(shape: ModelShape, mode: int) -> Kept:
    """Of the very first norm, which under LoRA nothing goes backward through."""
    own = norm(shape, mode, 0).split - NORM_PRODUCT[style_of(shape).norm][mode] * shape.hidden_size
    return Kept(0, own)


def final_norm(shape: ModelShape, mode: int) -> Kept:
    """The norm before the head."""
    return norm(shape, mode, 1)


def masks(shape: ModelShape, mode: int) -> Kept:
    """What eager attention adds to its scores: one for each kind of layer, for the whole model."""
    kinds = 2 if 0 < shape.windowed_layers < shape.num_layers else 1
    return Kept(0, 0, per_key=STREAM[mode] * kinds)
