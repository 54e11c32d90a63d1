"""The closed form is the real model, for whatever sizes a configuration names."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.errors import BadInput
from autotune.models.closed_form import shape_of
from autotune.models.families import FAMILIES, Switch
from autotune.models.hf import clean


@st.composite
def configurations(draw: st.DrawFn, model_type: str) -> dict[str, Any]:
    """A small configuration of the family with some keys left to their defaults and some null."""
    family = FAMILIES[model_type]
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    heads = kv_heads * draw(st.sampled_from([1, 2, 4]))
    experts = draw(st.integers(1, 6))
    sizes = {
        "vocab_size": draw(st.integers(8, 300)),
        "hidden_size": heads * draw(st.sampled_from([8, 16, 22])),
        "intermediate_size": draw(st.integers(1, 90)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": draw(st.sampled_from([4, 10, 16])),
        "max_position_embeddings": draw(st.integers(1, 64)),
        "num_experts": experts,
        "num_experts_per_tok": draw(st.integers(1, experts)),
    }
    config: dict[str, Any] = {"model_type": model_type, "pad_token_id": None}
    for name, size in sizes.items():
        keys = family.spelled.get(name, (name,))
        if keys and draw(st.integers(0, 9)) < 8:
            null = name in family.nullable and draw(st.booleans())
            config[draw(st.sampled_from(keys))] = None if null else size
    config[family.spelled.get("num_hidden_layers", ("num_hidden_layers",))[0]] = draw(st.integers(1, 3))
    switches = {fact.key for fact in vars(family).values() if isinstance(fact, Switch)}
    for key in sorted(switches | {"tie_word_embeddings"}):
        if draw(st.booleans()):
            config[key] = draw(st.booleans())
    return config


@pytest.mark.parametrize("model_type", FAMILIES)
def test_closed_form_is_what_transformers_builds(model_type, meta_parameters):
    compared = 0

    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(configurations(model_type))
    def compare(config: dict[str, Any]) -> None:
        nonlocal compared
        try:
            shape = shape_of(config)
        except BadInput:
            return  # sizes left to their defaults need not go with the others
        if shape is not None:
            assert shape.num_parameters == meta_parameters(config)
            compared += 1

    compare()
    assert compared >= 5


@pytest.mark.parametrize("model_type", FAMILIES)
def test_defaults_are_those_of_transformers(model_type):
    from transformers import AutoConfig

    shape = shape_of({"model_type": model_type})
    real = AutoConfig.for_model(model_type)
    assert shape.num_layers == real.num_hidden_layers
    assert shape.hidden_size == real.hidden_size
    assert shape.vocab_size == real.vocab_size
    assert shape.num_heads == real.num_attention_heads
    assert shape.num_kv_heads == getattr(real, "num_key_value_heads", real.num_attention_heads)
    assert shape.head_dim == (getattr(real, "head_dim", None) or real.hidden_size // real.num_attention_heads)
    assert shape.tied_embeddings == real.tie_word_embeddings
    assert shape.experts_per_token == getattr(real, "num_experts_per_tok", 1)


def test_parts_of_a_shape_add_up():
    shape = shape_of({"model_type": "gpt2"})
    assert (
        shape.embedding_parameters + shape.num_layers * shape.layer_parameters + shape.other_parameters
        == shape.num_parameters
        == 124_439_808
    )
    assert shape.max_positions == 1024
    assert shape_of({"model_type": "llama"}).max_positions is None


@pytest.mark.parametrize(
    "unusual",
    [
        {"model_type": "mamba2"},
        {"model_type": "llama", "hidden_act": "xielu"},  # has weights of its own
        {"model_type": "llama", "per_layer_config": {"0": {"intermediate_size": 8}}},
        {"model_type": "llama", "tie_word_embeddings": None},
        {"model_type": "llama", "pad_token_id": 10**6},
        {"model_type": "gemma2", "head_dim": None},
        {"model_type": "gemma2", "layer_types": ["full_attention"]},
        {"model_type": "gpt2", "add_cross_attention": True},
        {"model_type": "gpt2", "n_embd": 768, "hidden_size": 64},
        {"model_type": "qwen3_moe", "mlp_only_layers": [0]},
        {"model_type": "qwen3_moe", "decoder_sparse_step": 2},
    ],
    ids=str,
)
def test_what_the_table_does_not_cover_is_left_to_the_real_model(unusual):
    assert shape_of(unusual) is None


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"num_attention_heads": 33}, "do not divide its hidden size 4096"),
        ({"num_attention_heads": 33, "head_dim": 64}, "do not divide"),  # LlamaConfig insists
        ({"num_attention_heads": 32, "num_key_value_heads": 5}, "cannot serve 32 attention heads"),
        ({"head_dim": 5}, "even head size"),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, "cannot be chosen from 8"),
    ],
)
def test_sizes_that_do_not_go_together(sizes, reason):
    config = clean({"model_type": "llama", **sizes}, "config.json").config
    with pytest.raises(BadInput, match=reason):
        shape_of(config)


def test_a_head_size_frees_the_hidden_size():
    shape = shape_of({"model_type": "qwen3", "hidden_size": 1024, "num_attention_heads": 10,
                      "num_key_value_heads": 2, "head_dim": 64})  # fmt: skip
    assert shape.query_size == 640
