"""The closed form of memory against the trace: random models and configurations, tensors only.

Pairs on one rank (dense models with grouped and plain heads, tied and untied, vocabularies from 5,000 to
128,256, every checkpointing, optimizers, 1k to 64k tokens a micro-batch, experts) and under FSDP2 on 2 to 64
ranks, pairs of families outside the table, whose layers are measured, and pairs of each further option:
adapters, formats of weights, optimizers, nodes as replicas, tensor and context parallelism.

`python benchmarks/forecast_against_trace.py [--single 200] [--sharded 60] [--experts 20] [--measured 8]
[--options 5] [--seed 0] [--replay]` prints a line per pair and the errors by group, and writes
results/forecast_against_trace.json; with --replay the traces recorded there are used again, and what is not
there is traced.
"""

import argparse
import json
import logging
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean
from types import MappingProxyType
from typing import Any

from machine import RESULTS, save

from autotune.forecast.forecast import break_down
from autotune.hardware.inventory import NodeGroup
from autotune.hardware.parse import parse_inventory
from autotune.models.closed_form import shape_of
from autotune.models.described import describe
from autotune.models.hf import clean
from autotune.models.shape import ModelShape
from autotune.search.facts import facts_of
from search_spaces.constraints import why_illegal
from trials.contract.config import TrainingConfig
from trials.contract.messages import ModelSpec, ProbeRequest
from trials.model import ModelUnusable
from trials.trace import trace

FAMILIES = (
    "llama",
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "phi3",
    "gpt2",
    "gemma2",
    "gemma3_text",
    "starcoder2",
)
EXPERTS = ("mixtral", "qwen3_moe", "gpt_oss")
EAGER = ("gemma2", "gpt_oss", "bloom")
"""Families without a fused attention kernel."""
MEASURED = (
    "olmo",
    "olmo2",
    "gpt_neox",
    "opt",
    "bloom",
    "falcon",
    "stablelm",
    "cohere",
    "glm",
    "nemotron",
    "exaone4",
    "ernie4_5",
    "deepseek_v3",
    "olmoe",
    "granitemoe",
)
"""Families that no table has, so that their layers are measured."""
OPTIONS: tuple[dict[str, Any], ...] = (
    {"adaptation": "lora"},
    {"adaptation": "lora", "base_weights": "int8"},
    {"adaptation": "lora", "base_weights": "int4"},
    {"quantization_aware": "int8"},
    {"quantization_aware": "int4"},
    {"precision": "fp16"},
    {"precision": "fp8"},
    {"loss": "chunked"},
    {"optimizer": "lion"},
    {"optimizer": "adam"},
)
"""What else decides memory. Optimizers that read what their tensors hold, or compile, cannot be traced."""
SPLIT: Mapping[str, tuple[Sequence[int], dict[str, Any]]] = MappingProxyType(
    {
        "hsdp": ((16, 32, 64), {"sharding": "hsdp"}),
        "tensor_parallel_size=2": ((2, 8, 16), {"sharding": "fsdp", "tensor_parallel_size": 2}),
        "tensor_parallel_size=8": ((8, 16, 64), {"sharding": "fsdp", "tensor_parallel_size": 8}),
        "context_parallel_size=4": ((4, 8, 32), {"sharding": "fsdp", "context_parallel_size": 4}),
    }
)
"""Name → worlds, and how ranks divide the work; nodes have eight."""
WITH_LINEARS = ("llama", "qwen2", "qwen3", "mistral", "phi3", "gemma2", "gemma3_text", "starcoder2")
"""Families whose matmuls are `nn.Linear`, and whose logits, but for Gemma 2's, are the head's output."""
WORLDS = (2, 4, 8, 16, 32, 64)
PER_NODE = 8
TOKENS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)


@dataclass(frozen=True)
class Pair:
    family: str
    hf_config: dict[str, Any]
    config: TrainingConfig
    world_size: int


@dataclass(frozen=True)
class Compared:
    pair: Pair
    forecast_bytes: int
    traced_bytes: int
    peak_in: str

    @property
    def error(self) -> float:
        """Share by which the forecast is too high."""
        return self.forecast_bytes / self.traced_bytes - 1


def random_model(rng: random.Random, family: str) -> dict[str, Any]:
    head_dim, heads = rng.choice([64, 128]), rng.choice([4, 8, 12, 16])
    kv_heads = rng.choice([count for count in (1, 2, 4, 8, 12, 16) if heads % count == 0])
    hidden = heads * head_dim
    width = int(hidden * rng.uniform(2, 4)) // 64 * 64
    vocabulary, layers = rng.choice([5000, 32000, 50257, 128256]), rng.choice([2, 4, 8, 12, 16])
    if family == "gpt2":
        return {
            "model_type": family, "vocab_size": vocabulary, "n_embd": hidden, "n_layer": layers,
            "n_head": heads, "n_positions": 65536, "tie_word_embeddings": rng.random() < 0.6,
            "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
        }  # fmt: skip
    model = {
        "model_type": family, "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": width,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "head_dim": head_dim, "tie_word_embeddings": rng.random() < 0.4, "pad_token_id": 0,
        "max_position_embeddings": 131072,
    }  # fmt: skip
    if family in ("mixtral", "gpt_oss"):
        return model | {"num_local_experts": rng.choice([4, 8]), "num_experts_per_tok": 2}
    if family == "qwen3_moe":
        narrow = max(64, width // 4 // 64 * 64)
        return model | {
            "num_experts": rng.choice([8, 16]), "num_experts_per_tok": rng.choice([2, 4]),
            "moe_intermediate_size": narrow,
        }  # fmt: skip
    return model


def random_measured_model(rng: random.Random, family: str) -> dict[str, Any]:
    model = random_model(rng, family) | {"num_attention_heads": 8, "num_key_value_heads": 4}
    model["hidden_size"] = 8 * model["head_dim"]
    width = {"intermediate_size": model["intermediate_size"]}
    own: dict[str, dict[str, Any]] = {
        "olmo2": {"num_key_value_heads": 8},
        "gpt_neox": {"rotary_pct": 0.25},
        "opt": {
            "ffn_dim": 4 * model["hidden_size"], "word_embed_proj_dim": model["hidden_size"],
            "dropout": 0.0, "attention_dropout": 0.0,
        },
        "bloom": {"n_head": 8, "n_layer": model["num_hidden_layers"]},
        "falcon": {"new_decoder_architecture": False, "multi_query": True, "alibi": False},
        "exaone4": {"sliding_window": 4096, "sliding_window_pattern": 4},
        "deepseek_v3": {
            "num_key_value_heads": 8, "q_lora_rank": 128, "kv_lora_rank": 64, "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 32, "v_head_dim": 64, "moe_intermediate_size": 256, "n_routed_experts": 8,
            "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
        },
        "olmoe": {"num_experts": 8, "num_experts_per_tok": 2},
        "granitemoe": {"num_local_experts": 8, "num_experts_per_tok": 2},
    }  # fmt: skip
    if family in ("bloom", "opt", "falcon", "deepseek_v3"):
        del model["head_dim"]
    if family in ("deepseek_v3", "olmoe", "granitemoe"):
        width = {"intermediate_size": 512}
    return model | width | own.get(family, {})


def measured_pairs(rng: random.Random, count: int, worlds: Sequence[int], family: str) -> list[Pair]:
    """Some pairs of one model."""
    model = clean(random_measured_model(rng, family), "benchmark").config
    pairs = []
    for _ in range(count):
        world_size = rng.choice(worlds)
        pairs.append(Pair(family, model, random_config(rng, world_size, _attention(family)), world_size))
    return pairs


def random_pair(rng: random.Random, worlds: Sequence[int], families: Sequence[str]) -> Pair:
    world_size = rng.choice(worlds)
    family = rng.choice(families)
    config = random_config(rng, world_size, _attention(family))
    return Pair(family, clean(random_model(rng, family), "benchmark").config, config, world_size)


def _attention(family: str) -> str:
    return "eager" if family in EAGER else "sdpa"


def random_config(rng: random.Random, world_size: int, attention: str) -> TrainingConfig:
    length = rng.choice([512, 1024, 2048, 4096, 8192])
    return TrainingConfig(
        micro_batch_size=max(1, rng.choice(TOKENS) // length),
        sequence_length=length,
        precision=rng.choice(["fp32", "bf16", "bf16_pure"]),
        optimizer=rng.choice(["adamw", "adam", "sgd"]),
        activation_checkpointing=rng.choice(["none", "selective", "full"]),
        gradient_accumulation_steps=rng.choice([1, 1, 1, 3]),
        attention=attention,
        sharding="ddp" if world_size == 1 else "fsdp",
    )


Recorded = Mapping[str, tuple[int, str]]
"""A pair's key → the peak that was traced, and the phase that it is in."""


def key_of(pair: Pair) -> str:
    return json.dumps([pair.hf_config, pair.config.model_dump(mode="json"), pair.world_size], sort_keys=True)


def recorded() -> Recorded:
    rows = json.loads((RESULTS / "forecast_against_trace.json").read_text())["rows"]
    pairs = [
        (Pair("", row["model"], TrainingConfig.parse(row["config"]), row["world_size"]), row) for row in rows
    ]
    return {key_of(pair): (row["traced_bytes"], row["peak_in"]) for pair, row in pairs}


def traced(pair: Pair) -> tuple[int, str]:
    model = ModelSpec(name=pair.family, hf_config=pair.hf_config)
    request = ProbeRequest(
        probe_id="trace",
        model=model,
        config=pair.config,
        world_size=pair.world_size,
        num_nodes=pair.world_size // min(pair.world_size, PER_NODE),
    )
    found = trace(request)
    return found.peak_bytes, max(found.phases, key=lambda phase: found.phases[phase])


def compare(pair: Pair, shape: ModelShape | None, known: Recorded) -> Compared:
    traced_bytes, peak_in = known.get(key_of(pair)) or traced(pair)
    assert shape is not None
    phases = break_down(shape, group_of(pair.world_size), pair.world_size, pair.config).phases
    return Compared(
        pair=pair,
        forecast_bytes=max(sum(parts.values()) - parts["fixed"] for parts in phases.values()),
        traced_bytes=traced_bytes,
        peak_in=peak_in,
    )


def run(
    count: int, worlds: Sequence[int], families: Sequence[str], rng: random.Random, known: Recorded
) -> list[Compared]:
    pairs = [random_pair(rng, worlds, families) for _ in range(count)]
    return [shown(compare(pair, shape_of(pair.hf_config), known)) for pair in pairs]


def run_option(count: int, option: Mapping[str, Any], rng: random.Random, known: Recorded) -> list[Compared]:
    """As many pairs with the option on one rank, and under FSDP2."""
    families = [family for family in WITH_LINEARS if "loss" not in option or family != "gemma2"]
    pairs = [random_pair(rng, worlds, families) for worlds in ((1,), WORLDS) for _ in range(count)]
    chosen = [replace(pair, config=pair.config.model_copy(update=dict(option))) for pair in pairs]
    return [shown(compare(pair, shape_of(pair.hf_config), known)) for pair in chosen]


def run_split(
    count: int, worlds: Sequence[int], values: Mapping[str, Any], rng: random.Random, known: Recorded
) -> list[Compared]:
    """Random pairs with these values that are legal."""
    compared: list[Compared] = []
    while len(compared) < count:
        pair = random_pair(rng, worlds, WITH_LINEARS)
        pair = replace(pair, config=pair.config.model_copy(update=dict(values)))
        shape = shape_of(pair.hf_config)
        assert shape is not None
        facts = facts_of(shape, group_of(pair.world_size), pair.world_size)
        if why_illegal(pair.config, facts) is None:
            with suppress(ModelUnusable):  # whose plan splits more than linears
                compared.append(shown(compare(pair, shape, known)))
    return compared


def group_of(world_size: int) -> NodeGroup:
    per_node = min(world_size, PER_NODE)
    return parse_inventory(f"{world_size // per_node}x{per_node}xH100").group


def run_measured(count: int, worlds: Sequence[int], rng: random.Random, known: Recorded) -> list[Compared]:
    compared = []
    for family in MEASURED:
        pairs = measured_pairs(rng, count, worlds, family)
        if not pairs:
            continue
        started = time.monotonic()
        described = describe(ModelSpec(name=family, hf_config=pairs[0].hf_config))
        print(f"{family}: described in {time.monotonic() - started:.1f} s; {'; '.join(described.notes)}")
        compared += [shown(compare(pair, described.shape, known)) for pair in pairs]
    return compared


def shown(one: Compared) -> Compared:
    config = one.pair.config
    print(
        f"{one.error:+7.2%}  {one.pair.family:12} × {one.pair.world_size:<3}"
        f"{config.micro_batch_size:4} × {config.sequence_length:<5} {config.precision:9} "
        f"{config.activation_checkpointing:9} {one.traced_bytes / 2**30:7.2f} GiB in {one.peak_in}",
        flush=True,
    )
    return one


def figures(compared: Sequence[Compared]) -> dict[str, float]:
    errors = [one.error for one in compared]
    return {
        "pairs": len(errors),
        "mean_absolute_error": mean(map(abs, errors)),
        "worst_over": max(errors),
        "worst_under": min(errors),
        "within_1_percent": mean(abs(error) <= 0.01 for error in errors),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--single", type=int, default=200)
    parser.add_argument("--sharded", type=int, default=60)
    parser.add_argument("--experts", type=int, default=20, help="sharded pairs of families with experts")
    parser.add_argument("--measured", type=int, default=8, help="pairs of each family that is measured")
    parser.add_argument("--options", type=int, default=5, help="pairs of each option, one rank and FSDP2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", action="store_true", help="take the traces that are recorded")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    rng = random.Random(arguments.seed)
    known = recorded() if arguments.replay else {}
    makers: dict[str, Callable[[], list[Compared]]] = {
        "one rank": partial(run, arguments.single, (1,), (*FAMILIES, *EXPERTS), rng, known),
        "FSDP2": partial(run, arguments.sharded, WORLDS, FAMILIES, rng, known),
        "measured families": partial(run_measured, arguments.measured, (1, *WORLDS), rng, known),
        "FSDP2, experts": partial(run, arguments.experts, WORLDS, EXPERTS, rng, known),
        **{
            " ".join(f"{field}={value}" for field, value in option.items()): partial(
                run_option, arguments.options, option, rng, known
            )
            for option in OPTIONS
        },
        **{
            name: partial(run_split, 2 * arguments.options, worlds, values, rng, known)
            for name, (worlds, values) in SPLIT.items()
        },
    }
    groups: dict[str, list[Compared]] = {}
    try:
        for name, make in makers.items():
            groups |= {name: compared} if (compared := make()) else {}
    finally:  # what was traced is kept, however it ended
        write(groups, arguments.seed)


def write(groups: Mapping[str, Sequence[Compared]], seed: int) -> None:
    for name, compared in groups.items():
        found = figures(compared)
        print(
            f"{name}: {found['pairs']} pairs, mean error {found['mean_absolute_error']:.2%}, "
            f"worst {found['worst_over']:+.2%} and {found['worst_under']:+.2%}"
        )
    rows = [
        {
            "group": name,
            "model": one.pair.hf_config,
            "config": one.pair.config.model_dump(mode="json"),
            "world_size": one.pair.world_size,
            "forecast_bytes": one.forecast_bytes,
            "traced_bytes": one.traced_bytes,
            "error": round(one.error, 5),
            "peak_in": one.peak_in,
        }
        for name, compared in groups.items()
        for one in compared
    ]
    result = {"seed": seed, "figures": {n: figures(c) for n, c in groups.items()}, "rows": rows}
    print(f"written to {save('forecast_against_trace', result)}")


if __name__ == "__main__":
    main()
