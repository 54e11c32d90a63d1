"""The keys of published configurations besides sizes and switches, and what must stand under them.

transformers checks types, and ranges hardly: a dropout of 7 or a negative window would fail in every probe.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from autotune.errors import BadInput
from trials.contract.message import shown


@dataclass(frozen=True)
class Rule:
    """What a value must be, as the end of "must be ..." and as a check."""

    says: str
    holds: Callable[[Any], bool]

    def or_null(self) -> "Rule":
        return Rule(f"{self.says}, or null", lambda value: value is None or self.holds(value))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole(least: int) -> Rule:
    return Rule(
        f"a whole number from {least}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least,
    )


def list_of(rule: Rule, says: str) -> Rule:
    return Rule(says, lambda value: isinstance(value, list) and all(map(rule.holds, value)))


SHARE = Rule("a number from 0 to 1", lambda value: _number(value) and 0 <= value <= 1)
POSITIVE = Rule("a number above 0", lambda value: _number(value) and value > 0)
BASE = Rule("a number from 1", lambda value: _number(value) and value >= 1)
# transformers takes no whole number for these.
DECIMAL_SHARE = Rule("a decimal fraction from 0.0 to 1.0", lambda v: isinstance(v, float) and 0 <= v <= 1)
PART = Rule("a decimal fraction above 0.0, up to 1.0", lambda v: isinstance(v, float) and 0 < v <= 1)
DECIMAL = Rule("a decimal number above 0.0", lambda value: isinstance(value, float) and value > 0)
FLAG = Rule("true or false", lambda value: isinstance(value, bool))
TEXT = Rule("a word", lambda value: isinstance(value, str))
WHATEVER = Rule("anything", lambda value: True)
TOKEN = whole(-1).or_null()
TOKENS = Rule(
    "a token's number, a list of them, or null",
    lambda value: all(map(TOKEN.holds, value if isinstance(value, list) else [value])),
)
MAPPING = Rule("an object", lambda value: isinstance(value, Mapping)).or_null()

KNOWN: Mapping[str, Rule] = MappingProxyType(
    {
        key: rule
        for keys, rule in (
            ("attention_dropout attn_pdrop resid_pdrop embd_pdrop residual_dropout", SHARE),
            ("embedding_dropout summary_first_dropout", SHARE),
            ("rms_norm_eps layer_norm_epsilon norm_epsilon", PART),
            ("initializer_range router_aux_loss_coef router_jitter_noise", DECIMAL_SHARE),
            ("attn_logit_softcapping final_logit_softcapping", DECIMAL.or_null()),
            ("swiglu_limit swiglu_alpha", DECIMAL),
            ("attention_multiplier embedding_multiplier residual_multiplier logits_scaling", POSITIVE),
            ("rope_theta rope_local_base_freq", BASE),
            ("rope_scaling rope_parameters", MAPPING),
            ("intermediate_size query_pre_attn_scalar sliding_window_pattern", whole(1)),
            ("no_rope_layer_interval original_max_position_embeddings n_ctx", whole(1)),
            ("initial_context_length experts_per_token sliding_window_size", whole(1)),
            ("sliding_window pretraining_tp", whole(1).or_null()),
            ("max_window_layers", whole(0).or_null()),
            ("partial_rotary_factor", PART.or_null()),
            ("pad_token_id bos_token_id", TOKEN),
            ("eos_token_id", TOKENS),
            ("layer_types", list_of(TEXT, "a list of words").or_null()),
            ("no_rope_layers", list_of(whole(0), "a list of 0 and 1").or_null()),
            ("attention_bias mlp_bias lm_head_bias use_sliding_window norm_topk_prob", FLAG),
            ("output_router_logits scale_attn_weights scale_attn_by_inverse_layer_idx", FLAG),
            ("reorder_and_upcast_attn summary_use_proj summary_proj_to_labels", FLAG),
            ("use_bidirectional_attention", FLAG.or_null()),
            ("summary_type", TEXT),
            ("summary_activation", TEXT.or_null()),
            # Read by no model of these families.
            ("model_type architectures transformers_version use_cache tokenizer_class", WHATEVER),
            ("unsloth_fixed unsloth_version cache_implementation is_llama_config use_mrope", WHATEVER),
            ("rope_interleaved interpolate_factor full_attn_mod mlp_type norm_type", WHATEVER),
            ("attention_softmax_in_fp32 scale_attention_softmax_in_fp32 classifier_dropout", WHATEVER),
            ("transformers.js_config max_sequence_length per_layer_config", WHATEVER),
        )
        for key in keys.split()
    }
)


def covers(config: Mapping[str, Any], own_keys: Collection[str]) -> bool:
    """Whether every key is one of the family's own or known here.

    Raises BadInput naming the first known one whose value cannot be.
    """
    others = [key for key in config if key not in own_keys]
    for key in others:
        if rule := KNOWN.get(key):
            require(rule, key, config[key], config)
    return all(key in KNOWN for key in others)


def require(rule: Rule, key: str, value: Any, config: Mapping[str, Any]) -> None:
    """Raise BadInput naming `key` where its value breaks the rule."""
    if not rule.holds(value):
        raise BadInput(f"{key} of this {config['model_type']} must be {rule.says}, not {shown(value)}")
