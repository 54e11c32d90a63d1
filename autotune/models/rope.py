"""Rotary positions: the kinds that transformers knows, and what each must be told."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from autotune.models.known_keys import BASE, FLAG, MAPPING, PART, POSITIVE, Rule, list_of, require, whole

LAYER_TYPES = ("full_attention", "sliding_attention")

ROPE_KEYS = MappingProxyType(
    {
        "rope_theta": BASE,
        "factor": BASE,
        "original_max_position_embeddings": whole(1),
        "low_freq_factor": POSITIVE,
        "high_freq_factor": POSITIVE,
        "beta_fast": POSITIVE,
        "beta_slow": POSITIVE,
        "attention_factor": POSITIVE,
        "mscale": POSITIVE,
        "mscale_all_dim": POSITIVE,
        "truncate": FLAG,
        "partial_rotary_factor": PART,
        "short_factor": list_of(POSITIVE, "a list of numbers above 0"),
        "long_factor": list_of(POSITIVE, "a list of numbers above 0"),
    }
)
ROPE_TYPES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "default": frozenset(),
        "linear": frozenset({"factor"}),
        "dynamic": frozenset({"factor"}),
        "yarn": frozenset({"factor"}),
        "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor"}),
        "longrope": frozenset({"short_factor", "long_factor"}),
    }
)
"""Kind of rotary positions → what it needs, besides what transformers takes from elsewhere."""
ROPE_KIND_KEYS = ("rope_type", "type")
RARE_ROPE_TYPES = ("proportional", "axial", "su")
"""Known to transformers, or to some of its models, and left to it."""


@dataclass(frozen=True)
class Rotary:
    """What a family's code does with rotary positions."""

    kinds: Collection[str] = tuple(ROPE_TYPES)
    partial: bool = False
    """It can rotate a part of each head."""
    per_layer_type: bool = False
    """It can have parameters for each kind of layer."""


ROTARY: Mapping[str, Rotary] = MappingProxyType(
    {
        "phi3": Rotary(kinds=("default", "longrope"), partial=True),
        "gemma3_text": Rotary(per_layer_type=True),
    }
)
"""Families that differ from the others."""


def covers_rope(config: Mapping[str, Any], head_dim: int) -> bool:
    """Whether rotary positions are of a kind known here; raises BadInput as `covers` does."""
    rotary = ROTARY.get(config["model_type"], Rotary())
    partial = config.get("partial_rotary_factor") or 1.0
    parts = {key: config[key] for key in ("rope_scaling", "rope_parameters") if config.get(key)}
    for name, rope in list(parts.items()):
        if rotary.per_layer_type and config.get("layer_types") and set(rope) <= set(LAYER_TYPES):
            parts |= {f"{name}.{kind}": part for kind, part in rope.items() if part}
            del parts[name]
    for name, rope in parts.items():
        require(MAPPING, name, rope, config)
        _check_rope(config, name, rope)
    return (partial == 1.0 or rotary.partial) and all(
        _covers_rope(rope, rotary, int(head_dim * (rope.get("partial_rotary_factor") or partial)), head_dim)
        for rope in parts.values()
    )


def _check_rope(config: Mapping[str, Any], name: str, rope: Mapping[str, Any]) -> None:
    kind = next((key for key in ROPE_KIND_KEYS if key in rope), "rope_type")
    kinds = Rule(f"one of {', '.join(ROPE_TYPES)}", lambda value: value in (*ROPE_TYPES, *RARE_ROPE_TYPES))
    require(kinds, f"{name}.{kind}", rope.get(kind, "default"), config)
    for key, value in rope.items():
        if key in ROPE_KEYS and value is not None:
            require(ROPE_KEYS[key], f"{name}.{key}", value, config)


def _covers_rope(rope: Mapping[str, Any], rotary: Rotary, rotated: int, head_dim: int) -> bool:
    kind = rope.get("rope_type", rope.get("type", "default"))
    lengths = {len(rope[key] or ()) for key in ("short_factor", "long_factor") if key in rope}
    return (
        kind in rotary.kinds
        and set(rope) <= {*ROPE_KEYS, *ROPE_KIND_KEYS}
        and all(rope.get(key) is not None for key in ROPE_TYPES[kind])
        and (rotated == head_dim or rotary.partial)
        and lengths <= {rotated // 2}
    )
