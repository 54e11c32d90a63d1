"""A configuration from a stranger: nothing in it runs, fetches, looks elsewhere or takes the machine down."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import BadInput
from autotune.models.hf import STRIPPED, clean, read_config
from autotune.models.strict_json import MAX_BYTES

LLAMA = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}


def write(folder, text: str | bytes):
    file = folder / "config.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_a_folder_or_its_file(tmp_path):
    file = write(tmp_path, json.dumps(LLAMA))
    assert read_config(file) == read_config(tmp_path)
    assert read_config(file).config == LLAMA | {"use_cache": False}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[]", "must hold a JSON object"),
        ("null", "must hold a JSON object"),
        ('{"model_type": "llama", "model_type": "gpt2"}', "'model_type' stands in it twice"),
        ('{"model_type": "llama", "a": {"b": 1, "b": 2}}', "'b' stands in it twice"),
        ('{"model_type": "llama", "rope_theta": NaN}', "NaN is not a number"),
        ('{"model_type": "llama", "rope_theta": -Infinity}', "-Infinity is not a number"),
        ('{"model_type": "llama", "rope_theta": 1e999}', "out of range"),
        ('{"model_type": "llama", "seed": ' + "9" * 5000 + "}", "does not fit 64 bits"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'\xff\xfe{\x00"\x00', "not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 900 + "1" + "}" * 900, "model_type"),
        ('{"model_type": "llama", "a": ' + '{"a":' * 40 + "1" + "}" * 41, "nested too deeply"),
        ('{"model_type": "llama", "a": ' + "[" * 40 + "]" * 40 + "}", "nested too deeply"),
        (b" " * (MAX_BYTES + 1), "larger than 1 MiB"),
        ("{}", "model_type"),
        ('{"model_type": 3}', "model_type"),
        ('{"model_type": "../../etc"}', "model_type"),
        ('{"model_type": "lla\\u0000ma"}', "model_type"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(tmp_path, text, reason):
    with pytest.raises(BadInput, match=re.escape(reason)) as caught:
        read_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "config.json")  # opening it would wait for a writer
    with pytest.raises(BadInput, match="not a regular file"):
        read_config(tmp_path)
    with pytest.raises(BadInput, match="cannot read"):
        read_config(tmp_path / "elsewhere.json")


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": True},
        {"num_hidden_layers": 12.0},
        {"num_hidden_layers": "12"},
        {"num_hidden_layers": [4, 0]},
        {"hidden_size": -64},
        {"hidden_size": 2**40},
        {"n_embd": 0},
        {"vocab_size": 2**30},
        {"num_attention_heads": 2**20},
        {"num_key_value_heads": -1},
        {"intermediate_size": 2**40},
        {"num_local_experts": 10**6},
        {"num_blocks_of_some_kind": 2**40},
        {"vision_config": {"hidden_size": 0}},
    ],
    ids=str,
)
def test_absurd_sizes_are_refused(sizes):
    with pytest.raises(BadInput, match="must be a whole number from"):
        clean(LLAMA | sizes, "config.json")


def test_sensible_sizes_and_nulls_pass():
    sizes = {
        "num_hidden_layers": 126,
        "num_key_value_heads": None,
        "num_local_experts": 0,
        "n_heads": [None, 4],
        "eos_token_id": [1, 2],
        "pad_token_id": -1,
    }
    assert clean(LLAMA | sizes, "config.json").config.items() >= sizes.items()


HOSTILE = {
    "auto_map": {"AutoModelForCausalLM": "evil--modeling.Evil"},
    "trust_remote_code": True,
    "custom_pipelines": {"x": {"impl": "evil.py"}},
    "_name_or_path": "evil/repo",
    "name_or_path": "evil/repo",
    "base_model_name_or_path": "evil/repo",
    "_attn_implementation": "evil/kernels",
    "_attn_implementation_internal": "evil/kernels",
    "attn_implementation": {"": "evil/kernels"},
    "experts_implementation": "evil/kernels",
    "use_kernels": True,
    "_commit_hash": "0" * 40,
    "quantization_config": {"quant_method": "gptq"},
    "torch_dtype": "save",
    "dtype": "save",
    "backbone": "resnet50",
    "backbone_config": {"model_type": "resnet"},
    "use_pretrained_backbone": True,
    "use_timm_backbone": True,
    "torchscript": True,
    "base_model_tp_plan": {"layers.*": "rowwise"},
    "attribute_map": {"hidden_size": "vocab_size"},
    "__class__": "evil",
    "__dict__": {},
    "gradient_checkpointing": True,
    "num_labels": 10**12,
    "id2label": {"0": "x"},
    "some_url": "https://evil.example/x",
    "some_file": "../../etc/passwd",
    "some_home": "~/x",
    "some_windows": "C:\\x",
    "two/words": 1,
    "": 1,
    "x" * 5000: 1,
}


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_what_could_run_or_fetch_is_left_out_at_every_depth(depth):
    hostile: dict[str, Any] = HOSTILE
    for _ in range(depth):
        hostile = {"inner_config": hostile}
    cleaned = clean(LLAMA | hostile, "config.json")
    inner = cleaned.config
    for _ in range(depth):
        inner = inner["inner_config"]
    kept = {"model_type", "hidden_size", "num_attention_heads", "use_cache"} if depth == 0 else set()
    assert set(inner) == kept
    assert any("auto_map" in note and "run code from elsewhere" in note for note in cleaned.notes)
    assert any("is for autotune to choose" in note for note in cleaned.notes)
    assert all(len(note) < 500 for note in cleaned.notes)


def test_a_list_with_a_path_in_it_is_left_out_whole():
    cleaned = clean(LLAMA | {"layer_types": ["full_attention", "a/b"]}, "config.json")
    assert cleaned.config["layer_types"] == []
    assert any("layer_types" in note for note in cleaned.notes)


def test_ordinary_values_are_kept():
    ordinary = {
        "hidden_act": "gelu_pytorch_tanh",
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
        "layer_types": ["full_attention", "sliding_attention"],
        "hybrid_override_pattern": "M-M*-",
        "transformers_version": "4.40.0.dev0",
        "architectures": ["LlamaForCausalLM"],
        "tie_word_embeddings": True,
    }
    cleaned = clean(LLAMA | ordinary, "config.json")
    assert cleaned.config == LLAMA | ordinary | {"use_cache": False}
    assert cleaned.notes == ()


def test_of_several_towers_the_language_model_is_taken():
    cleaned = clean(
        {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}, "vision_config": {}},
        "config.json",
    )
    assert cleaned.config == {"model_type": "gemma3_text", "use_cache": False}
    assert "language model alone" in cleaned.notes[0]


KEYS = st.one_of(
    st.sampled_from([*LLAMA, "vocab_size", "text_config", *HOSTILE]), st.text(max_size=12)
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def leaves(value: Any) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items() if isinstance(value, dict) else [("", item) for item in value]:
        yield key, inner
        if isinstance(inner, dict | list):
            yield from leaves(inner)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_whatever_is_given_comes_out_clean_or_is_refused(raw):
    try:
        cleaned = clean(raw | {"model_type": "llama"}, "config.json")
    except BadInput:
        return
    for key, value in leaves(cleaned.config):
        assert key == "use_cache" or not any(row.keys.fullmatch(key) for row in STRIPPED)
        assert not (isinstance(value, str) and set(value) & set("/\\:~"))
    again = clean(cleaned.config, "config.json")
    assert again.config == cleaned.config or "nan" in str(cleaned.config)
