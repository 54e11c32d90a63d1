"""The exact `ModelShape` of a configuration whose family is in the table, without building anything."""

from collections.abc import Mapping
from typing import Any

from autotune.errors import BadInput
from autotune.models.families import DERIVED, FAMILIES, Fact, Family, Switch
from autotune.models.known_keys import covers
from autotune.models.rope import LAYER_TYPES, covers_rope
from autotune.models.shape import ModelShape

ACTIVATION_KEYS = ("hidden_act", "hidden_activation", "activation_function")
# fmt: off
ACTIVATIONS = frozenset({
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh",
    "gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu",
    "relu", "relu2", "relu6", "sigmoid", "silu", "swish", "tanh",
})
# fmt: on
"""Those of transformers that have no weights of their own."""
PER_LAYER = ("layer_types", "no_rope_layers")
"""Lists with an entry for each layer."""


def shape_of(config: Mapping[str, Any]) -> ModelShape | None:
    """Return the shape of a cleaned Hugging Face configuration, or None where no row covers all of it.

    Raises BadInput where its sizes do not go together, or a value cannot be what its key says.
    """
    family = FAMILIES.get(config["model_type"])
    if family is None or not covers(config, _own_keys(family)) or not _covered(config, family):
        return None
    given = _read(config, family)
    if given is None:
        return None
    sizes = _derived(given)
    _check(config["model_type"], sizes, family, head_dim_given=given["head_dim"] is not DERIVED)
    return _shape(config, sizes, family) if covers_rope(config, sizes["head_dim"]) else None


def _own_keys(family: Family) -> frozenset[str]:
    """The keys that decide the family's sizes and weights, which are checked here."""
    sizes = [key for name in family.sizes for key in family.spelled.get(name, (name,))]
    switches = [fact.key for fact in vars(family).values() if isinstance(fact, Switch)]
    return frozenset({*sizes, *switches, *family.uniform, *ACTIVATION_KEYS, "tie_word_embeddings"})


def _covered(config: Mapping[str, Any], family: Family) -> bool:
    """Whether nothing in `config` adds weights that the row does not know, or makes layers differ."""
    switches = [fact.key for fact in vars(family).values() if isinstance(fact, Switch)]
    return (
        config.get("per_layer_config") is None
        and all(isinstance(config.get(key, False), bool) for key in (*switches, "tie_word_embeddings"))
        and all(config.get(key) in (*ACTIVATIONS, None) for key in ACTIVATION_KEYS)
        and all(kind in LAYER_TYPES for kind in config.get("layer_types") or ())
        and all(config[key] in values for key, values in family.uniform.items() if key in config)
    )


def _read(config: Mapping[str, Any], family: Family) -> dict[str, Any] | None:
    """The sizes with defaults filled in; None where transformers would refuse them or read them otherwise."""
    sizes: dict[str, Any] = {}
    for name, default in family.sizes.items():
        given = [config[key] for key in family.spelled.get(name, (name,)) if key in config]
        if any(value != given[0] for value in given):
            return None
        value = given[0] if given else default
        if given and not (isinstance(value, int) or (value is None and name in family.nullable)):
            return None
        sizes[name] = value
    per_layer = (config[key] for key in PER_LAYER if config.get(key) is not None)
    if any(len(entries) != sizes["num_hidden_layers"] for entries in per_layer):
        return None
    padding = config.get("pad_token_id") or 0
    return sizes if -sizes["vocab_size"] <= padding < sizes["vocab_size"] else None


def _derived(given: Mapping[str, Any]) -> dict[str, int]:
    """Compute the sizes that follow from others."""
    derived = {
        "num_key_value_heads": given["num_attention_heads"],
        "head_dim": given["hidden_size"] // given["num_attention_heads"],
        "intermediate_size": 4 * given["hidden_size"],
    }
    return {name: derived[name] if size is DERIVED else size for name, size in given.items()}


def _check(model_type: str, sizes: Mapping[str, int], family: Family, *, head_dim_given: bool) -> None:
    hidden, heads, kv_heads = (
        sizes[name] for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
    )
    experts, chosen = sizes["num_experts"], sizes["num_experts_per_tok"]
    if hidden % heads and (family.heads_fill_hidden or not head_dim_given):
        raise BadInput(
            f"the {heads} attention heads of this {model_type} do not divide its hidden size {hidden}"
        )
    if heads % kv_heads:
        raise BadInput(f"{kv_heads} key-value heads cannot serve {heads} attention heads equally")
    if not family.learned_positions and sizes["head_dim"] % 2:
        raise BadInput(f"rotary positions need an even head size, not {sizes['head_dim']}")
    if not 1 <= chosen <= experts:
        raise BadInput(f"{chosen} experts per token cannot be chosen from {experts}")


def _shape(config: Mapping[str, Any], sizes: Mapping[str, int], family: Family) -> ModelShape:
    def holds(fact: Fact) -> bool:
        return bool(config.get(fact.key, fact.default)) if isinstance(fact, Switch) else fact

    hidden, heads, head_dim = sizes["hidden_size"], sizes["num_attention_heads"], sizes["head_dim"]
    query, key_value = heads * head_dim, sizes["num_key_value_heads"] * head_dim
    norm = hidden * (1 + family.norm_bias)
    attention = 2 * hidden * (query + key_value)
    attention += (query + 2 * key_value) * holds(family.qkv_bias) + hidden * holds(family.output_bias)
    attention += 2 * head_dim * family.qk_norm + heads * family.attention_sinks

    widened, intermediate = 1 + family.gated_mlp, sizes["intermediate_size"]
    expert = (widened + 1) * hidden * intermediate
    expert += (widened * intermediate + hidden) * holds(family.mlp_bias)
    router = (hidden + family.router_bias) * family.router
    mlp = sizes["num_experts"] * (expert + router)

    layer = attention + mlp + family.norms_per_layer * norm
    tied = holds(Switch("tie_word_embeddings", family.tied_embeddings))
    positions = sizes["max_position_embeddings"]
    other = norm + positions * hidden * family.learned_positions
    vocabulary = sizes["vocab_size"] * hidden * (1 if tied else 2)
    return ModelShape(
        model_type=config["model_type"],
        num_parameters=vocabulary + sizes["num_hidden_layers"] * layer + other,
        num_layers=sizes["num_hidden_layers"],
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_heads=heads,
        num_kv_heads=sizes["num_key_value_heads"],
        head_dim=head_dim,
        vocab_size=sizes["vocab_size"],
        tied_embeddings=tied,
        gated_mlp=family.gated_mlp,
        max_positions=positions if family.learned_positions else None,
        num_experts=sizes["num_experts"],
        experts_per_token=sizes["num_experts_per_tok"],
        other_parameters=other,
        **_windows(config, sizes["num_hidden_layers"], family),
    )


def _windows(config: Mapping[str, Any], num_layers: int, family: Family) -> dict[str, Any]:
    """`sliding_window` and `windowed_layers` of the shape."""
    window = config.get("sliding_window", family.window)
    if not isinstance(window, int) or (family.window_switch and not config.get("use_sliding_window", False)):
        return {}
    if (layer_types := config.get("layer_types")) is not None:
        windowed = layer_types.count("sliding_attention")
    elif family.window_switch:
        windowed = max(0, num_layers - config.get("max_window_layers", num_layers))
    elif family.full_attention_every:
        windowed = num_layers - num_layers // config.get(
            "sliding_window_pattern", family.full_attention_every
        )
    else:
        windowed = num_layers
    return {"sliding_window": window, "windowed_layers": windowed} if windowed else {}
