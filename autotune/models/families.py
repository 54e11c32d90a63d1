"""The layouts of known model families: what transformers builds for a `model_type`, as a table.

Each row states the defaults of transformers 5 and which weights exist; the tests hold every row against
the real classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

DERIVED = None
"""Default of a size that follows from others: as many key heads as heads, heads that fill the hidden size."""


@dataclass(frozen=True)
class Switch:
    """A boolean of the configuration that decides whether some weights exist."""

    key: str
    default: bool


Fact = bool | Switch

ATTENTION_BIAS = Switch("attention_bias", False)
MLP_BIAS = Switch("mlp_bias", False)
USE_BIAS = Switch("use_bias", True)

DENSE: Mapping[str, tuple[str, ...]] = MappingProxyType({"num_experts": (), "num_experts_per_tok": ()})
"""Spelling where there are no experts: their numbers are read from nowhere."""


@dataclass(frozen=True)
class Family:
    """One row. Where nothing else is said, the facts are Llama's."""

    sizes: Mapping[str, int | None]
    """transformers' defaults, under the names used here."""
    tied_embeddings: bool = False
    """Default of `tie_word_embeddings`."""
    spelled: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: DENSE)
    """Size → the keys it is read from, where they are not its name here."""
    nullable: tuple[str, ...] = ()
    """Sizes that may be given as null, which means DERIVED."""
    uniform: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Key → the values under which all layers are of the one kind that the row describes."""
    gated_mlp: bool = True
    norms_per_layer: int = 2
    norm_bias: bool = False
    qkv_bias: Fact = False
    output_bias: Fact = False
    mlp_bias: Fact = False
    qk_norm: bool = False
    """One norm of head size for the queries and one for the keys."""
    attention_sinks: bool = False
    """A learned logit per head."""
    router: bool = False
    """The feed-forward part is a router and `num_experts` experts."""
    router_bias: bool = False
    learned_positions: bool = False
    window: int | None = None
    """Default of `sliding_window`: how far back attention looks in the layers that have one."""
    full_attention_every: int = 0
    """One layer in so many looks at everything; 0: none does, where there is a window."""
    window_switch: bool = False
    """The window holds under `use_sliding_window` alone, from layer `max_window_layers` on."""
    heads_fill_hidden: bool = False
    """transformers refuses a hidden size that the heads do not divide, even with a head size given."""


SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "num_experts",
    "num_experts_per_tok",
)


def _sizes(*defaults: int | None, experts: tuple[int, int] = (1, 1)) -> Mapping[str, int | None]:
    """The SIZES in their order; `experts` are how many there are and how many serve a token."""
    return MappingProxyType(dict(zip(SIZES, (*defaults, *experts), strict=True)))


LOCAL_EXPERTS = MappingProxyType({"num_experts": ("num_local_experts", "num_experts")})

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": Family(
            _sizes(32000, 4096, 11008, 32, 32, DERIVED, DERIVED, 2048),
            nullable=("num_key_value_heads", "head_dim"),
            qkv_bias=ATTENTION_BIAS,
            output_bias=ATTENTION_BIAS,
            mlp_bias=MLP_BIAS,
            heads_fill_hidden=True,
        ),
        "granite": Family(
            _sizes(32000, 4096, 11008, 32, 32, DERIVED, DERIVED, 2048),
            qkv_bias=ATTENTION_BIAS,
            output_bias=ATTENTION_BIAS,
            mlp_bias=MLP_BIAS,
        ),
        "smollm3": Family(
            _sizes(128256, 2048, 11008, 36, 16, 4, DERIVED, 32768),
            tied_embeddings=True,
            qkv_bias=ATTENTION_BIAS,
            output_bias=ATTENTION_BIAS,
            mlp_bias=MLP_BIAS,
            window_switch=True,
        ),
        "mistral": Family(
            _sizes(32000, 4096, 14336, 32, 32, 8, DERIVED, 131072),
            nullable=("head_dim",),
            window=4096,
        ),
        "mixtral": Family(
            _sizes(32000, 4096, 14336, 32, 32, 8, DERIVED, 131072, experts=(8, 2)),
            spelled=LOCAL_EXPERTS,
            nullable=("head_dim",),
            router=True,
        ),
        "qwen2": Family(
            _sizes(151936, 4096, 22016, 32, 32, 32, DERIVED, 32768),
            qkv_bias=True,
            window_switch=True,
        ),
        "qwen3": Family(
            _sizes(151936, 4096, 22016, 32, 32, 32, 128, 32768),
            qkv_bias=ATTENTION_BIAS,
            output_bias=ATTENTION_BIAS,
            qk_norm=True,
            window_switch=True,
        ),
        "qwen3_moe": Family(
            _sizes(151936, 2048, 768, 24, 32, 4, DERIVED, 32768, experts=(128, 8)),
            spelled={
                "intermediate_size": ("moe_intermediate_size",),
                "num_experts": ("num_experts", "num_local_experts"),
            },
            uniform={"mlp_only_layers": ([], None), "decoder_sparse_step": (1,)},
            qkv_bias=ATTENTION_BIAS,
            output_bias=ATTENTION_BIAS,
            qk_norm=True,
            router=True,
            window_switch=True,
        ),
        "gemma": Family(
            _sizes(256000, 3072, 24576, 28, 16, 16, 256, 8192),
            tied_embeddings=True,
            qkv_bias=ATTENTION_BIAS,
            output_bias=ATTENTION_BIAS,
        ),
        "gemma2": Family(
            _sizes(256000, 2304, 9216, 26, 8, 4, 256, 8192),
            tied_embeddings=True,
            norms_per_layer=4,
            qkv_bias=ATTENTION_BIAS,
            output_bias=ATTENTION_BIAS,
            heads_fill_hidden=True,
            window=4096,
            full_attention_every=2,
        ),
        "gemma3_text": Family(
            _sizes(262208, 2304, 9216, 26, 8, 4, 256, 131072),
            tied_embeddings=True,
            norms_per_layer=4,
            qkv_bias=ATTENTION_BIAS,
            output_bias=ATTENTION_BIAS,
            qk_norm=True,
            heads_fill_hidden=True,
            window=4096,
            full_attention_every=6,
        ),
        "phi3": Family(_sizes(32064, 3072, 8192, 32, 32, DERIVED, DERIVED, 4096)),
        "starcoder2": Family(
            _sizes(49152, 3072, 12288, 30, 24, 2, DERIVED, 4096),
            tied_embeddings=True,
            gated_mlp=False,
            norm_bias=True,
            qkv_bias=USE_BIAS,
            output_bias=USE_BIAS,
            mlp_bias=USE_BIAS,
        ),
        "gpt2": Family(
            _sizes(50257, 768, DERIVED, 12, 12, DERIVED, DERIVED, 1024),
            tied_embeddings=True,
            spelled={
                "hidden_size": ("n_embd", "hidden_size"),
                "intermediate_size": ("n_inner",),
                "num_hidden_layers": ("n_layer", "num_hidden_layers"),
                "num_attention_heads": ("n_head", "num_attention_heads"),
                "num_key_value_heads": (),
                "head_dim": (),
                "max_position_embeddings": ("n_positions", "max_position_embeddings"),
                **DENSE,
            },
            nullable=("intermediate_size",),
            uniform={"add_cross_attention": (False,)},
            gated_mlp=False,
            norm_bias=True,
            qkv_bias=True,
            output_bias=True,
            mlp_bias=True,
            learned_positions=True,
            heads_fill_hidden=True,
        ),
        "gpt_oss": Family(
            _sizes(201088, 2880, 2880, 36, 64, 8, 64, 131072, experts=(128, 4)),
            spelled=LOCAL_EXPERTS,
            qkv_bias=Switch("attention_bias", True),
            output_bias=Switch("attention_bias", True),
            mlp_bias=True,
            attention_sinks=True,
            router=True,
            router_bias=True,
            window=128,
            full_attention_every=2,
        ),
    }
)
