"""A Hugging Face configuration, read as hostile input: nothing in it may run, fetch or look elsewhere.

Deny rows by key, checks by value. A full list of allowed keys exists only inside transformers, which is
not imported here; so every value must also look harmless: numbers, booleans and plain words pass, and
whatever could be a path, an address or a repository is left out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.errors import BadInput
from autotune.models.strict_json import read_object

MAX_DEPTH = 12
"""Configurations of several towers nest four deep."""

MODEL_TYPE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.IGNORECASE)
KEY = re.compile(r"[\w.-]{1,100}", re.ASCII)
PLAIN_TEXT = re.compile(r"[A-Za-z0-9][\w +*,.-]{0,1999}|", re.ASCII)
"""Words, versions, layer patterns; no slash, colon, backslash, tilde, or dot in front."""


@dataclass(frozen=True)
class Stripped:
    """Keys that are left out wherever they stand, and why."""

    keys: re.Pattern[str]
    why: str


STRIPPED = tuple(
    Stripped(re.compile(keys), why)
    for keys, why in (
        (r"auto_map|trust_remote_code|code_revision|custom_.*", "would run code from elsewhere"),
        (
            r"(.*_)?name_or_path|_commit_hash|revision|.*backbone.*|timm_.*|use_timm_.*|configuration_files"
            r"|extra_(config_)?files|(use_)?(hub_)?kernels?|kernel_config|use_kernel_.*|.*_repo(_id)?",
            "would look for files elsewhere",
        ),
        (
            r"(torch_)?dtype|quantization_config|compression_config|.*attn_implementation.*"
            r"|.*experts_implementation.*|(use_)?gradient_checkpointing",
            "is for autotune to choose",
        ),
        (
            r"use_cache|torchscript|(use_)?return_dict|output_attentions|output_hidden_states|num_labels"
            r"|id2label|label2id|problem_type|finetuning_task|task_specific_params",
            "has no part in training a language model",
        ),
        (
            r"_.*|attribute_map|sub_configs.*|base_config_key|(base_model_)?.*_plan|keys_to_ignore.*"
            r"|distributed_config",
            "belongs to the library, not to the model",
        ),
    )
)
NOT_PLAIN = "could name a file or an address"


@dataclass(frozen=True)
class Bound:
    """What a size can sensibly be: an absurd one would take the machine down before anyone says no."""

    keys: re.Pattern[str]
    low: int
    high: int


BOUNDS = tuple(
    Bound(re.compile(keys), low, high)
    for keys, low, high in (
        (r"num_hidden_layers|n_layers?|num_layers|(num_)?(en|de)coder_layers", 1, 10_000),
        (r"hidden_size|n_embd|d_model", 1, 2**20),
        (r"(.*_)?intermediate_size|n_inner|ffn_dim|d_ff|ffn_hidden_size", 1, 2**22),
        (r"num_attention_heads|n_heads?|num_heads|num_key_value_heads|head_dim", 1, 2**16),
        (r"vocab_size", 1, 2**24),
        (r"max_position_embeddings|n_positions|n_ctx", 1, 2**31),
        (r"num(_local)?_experts|n_routed_experts|(num_)?experts_per_tok(en)?", 0, 2**16),
        (r"(n|num)_.*|.*_(size|dim|layers|heads|experts|rank|window|interval|step)", -1, 2**31),
    )
)
"""The first row that matches a key holds; integers under other keys are bounded by 64 bits alone."""


@dataclass(frozen=True)
class CleanConfig:
    config: dict[str, Any]
    notes: tuple[str, ...] = ()
    """What was left out, one sentence per reason."""


def read_config(path: Path) -> CleanConfig:
    """Read `path`, a config.json or the folder that holds one; raise BadInput where it cannot be used."""
    file = path / "config.json" if path.is_dir() else path
    return clean(read_object(file), str(file))


def clean(raw: Mapping[str, Any], source: str) -> CleanConfig:
    """Check the configuration that `source` holds and leave out what has no place in training.

    Of a model with several towers the language model's part is taken. Raises BadInput where the
    configuration has no model_type, is nested too deeply, or holds a size out of its bounds.
    """
    notes = []
    text = raw.get("text_config")
    if isinstance(text, Mapping) and isinstance(text.get("model_type"), str):
        notes.append(f"of {raw.get('model_type')!r:.80} the language model alone is trained")
        raw = text
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or not MODEL_TYPE.fullmatch(model_type):
        raise BadInput(f'{source} needs a "model_type" such as "llama", which says how to build the model')
    cleaning = _Cleaning(source)
    config = {"model_type": model_type, **cleaning.mapping(raw, ()), "use_cache": False}
    return CleanConfig(config, (*notes, *cleaning.notes()))


@dataclass
class _Cleaning:
    source: str
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Reason → the keys it concerns."""

    def mapping(self, raw: Mapping[str, Any], where: tuple[str, ...]) -> dict[str, Any]:
        if len(where) > MAX_DEPTH:
            raise BadInput(f"{self.source} is nested too deeply")
        result = {}
        for key, value in raw.items():
            path = (*where, key)
            if why := _why_stripped(key):
                self._leave_out(path, why)
            elif not _is_plain(value):
                self._leave_out(path, NOT_PLAIN)
            else:
                self._check_size(path, value)
                result[key] = self.value(value, path)
        return result

    def value(self, raw: Any, where: tuple[str, ...]) -> Any:
        if isinstance(raw, Mapping):
            return self.mapping(raw, where)
        if isinstance(raw, list):
            if len(where) > MAX_DEPTH:
                raise BadInput(f"{self.source} is nested too deeply")
            if not all(_is_plain(item) for item in raw):
                self._leave_out(where, NOT_PLAIN)
                return []
            return [self.value(item, (*where, "[]")) for item in raw]
        return raw

    def _leave_out(self, path: tuple[str, ...], why: str) -> None:
        self.left_out.setdefault(why, []).append(".".join(path))

    def _check_size(self, path: tuple[str, ...], value: Any) -> None:
        bound = next((bound for bound in BOUNDS if bound.keys.fullmatch(path[-1])), None)
        if bound is None or isinstance(value, Mapping):
            return
        strict = bound is not BOUNDS[-1]  # the last row is about names that only may be sizes
        for item in value if isinstance(value, list) else [value]:  # a list holds a size for each layer
            whole = isinstance(item, int) and not isinstance(item, bool)
            if item is None:
                continue
            if (strict and not whole) or (whole and not bound.low <= item <= bound.high):
                raise BadInput(
                    f"{'.'.join(path)} in {self.source} must be a whole number"
                    f" from {bound.low:,} to {bound.high:,}, not {item!r:.40}"
                )

    def notes(self) -> list[str]:
        return [f"left out {_listed(keys)}, which {why}" for why, keys in self.left_out.items()]


def _why_stripped(key: str) -> str | None:
    if not KEY.fullmatch(key):
        return NOT_PLAIN
    return next((row.why for row in STRIPPED if row.keys.fullmatch(key)), None)


def _is_plain(value: Any) -> bool:
    """Whether `value` is no text, or text without anything of a path in it."""
    return not isinstance(value, str) or bool(PLAIN_TEXT.fullmatch(value))


def _listed(keys: list[str], most: int = 4) -> str:
    shown = ", ".join(ascii(key)[1:-1][:60] for key in keys[:most])
    return shown + (f" and {len(keys) - most} more" if len(keys) > most else "")
