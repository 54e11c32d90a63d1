"""Models, worlds and options of which random configurations are probed, on each kind of device."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from autotune.forecast.forecast import Forecast, forecast
from autotune.hardware.inventory import Inventory, NodeGroup
from autotune.models.closed_form import shape_of
from autotune.models.hf import clean
from autotune.models.resolve import resolve
from autotune.models.shape import ModelShape
from autotune.search.facts import facts_of
from search_spaces.columns import Columns
from search_spaces.constraints import why_illegal
from trials.contract.config import TrainingConfig
from trials.contract.messages import DeviceKind, MeasurementPlan, ModelSpec, ProbeRequest

OWN: dict[str, dict[str, Any]] = {
    # of the CPU
    "llama-34m": {
        "model_type": "llama", "vocab_size": 16000, "hidden_size": 512, "intermediate_size": 1408,
        "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 2,
        "max_position_embeddings": 2048, "tie_word_embeddings": False, "pad_token_id": 0,
    },
    "gpt2-52m": {
        "model_type": "gpt2", "vocab_size": 50257, "n_embd": 512, "n_layer": 8, "n_head": 8,
        "n_positions": 2048, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    },
    "qwen3-70m": {
        "model_type": "qwen3", "vocab_size": 32000, "hidden_size": 640, "intermediate_size": 1920,
        "num_hidden_layers": 10, "num_attention_heads": 10, "num_key_value_heads": 2, "head_dim": 64,
        "max_position_embeddings": 4096, "tie_word_embeddings": True, "pad_token_id": 0,
    },
    # with experts
    "mixtral-40m": {
        "model_type": "mixtral", "vocab_size": 16000, "hidden_size": 384, "intermediate_size": 768,
        "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2, "num_local_experts": 8,
        "num_experts_per_tok": 2, "max_position_embeddings": 2048, "tie_word_embeddings": False,
        "pad_token_id": 0,
    },
    "mixtral-800m": {
        "model_type": "mixtral", "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 3584,
        "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 4, "num_local_experts": 8,
        "num_experts_per_tok": 2, "max_position_embeddings": 4096, "tie_word_embeddings": False,
        "pad_token_id": 0,
    },
}  # fmt: skip
"""Models that are no preset."""
PLAIN = ""
"""Name of what is no option."""


@dataclass(frozen=True)
class Option:
    """Values to have beside random ones."""

    worlds: Sequence[int]
    values: Mapping[str, Any]
    model: str | None = None
    """Else the first of those that are probed without options."""
    num_nodes: int = 1


@dataclass(frozen=True)
class Cases:
    """What is probed on one kind of device."""

    models: Sequence[str]
    shardings: Mapping[int, Sequence[str]]
    """World size → what random configurations are sharded by."""
    worlds: Sequence[int]
    """Those that are probed without options."""
    choices: Mapping[str, Sequence[Any]]
    """Field → what is drawn from, each as likely as it is often there."""
    options: Mapping[str, Option]
    enough_tokens: int
    """In a microbatch, for its activations to be what decides."""
    fills_at_most: float
    """Share of the device's memory, by the forecast."""


LORA = {"adaptation": "lora"}
PIPELINE = {"pipeline_parallel_size": 2, "gradient_accumulation_steps": 4}
BOTH_DEVICES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "LoRA": LORA,
        "LoRA on int8": {**LORA, "base_weights": "int8"},
        "LoRA on int4": {**LORA, "base_weights": "int4"},
        "quantisation-aware int8": {"quantization_aware": "int8"},
        "quantisation-aware int4": {"quantization_aware": "int4"},
        "fp8": {"precision": "fp8"},
        "chunked loss": {"loss": "chunked"},
        "compile": {"compile": True},
        "Adam": {"optimizer": "adam"},
        "Adafactor": {"optimizer": "adafactor"},
        "Lion": {"optimizer": "lion"},
        "8-bit AdamW": {"optimizer": "adamw_8bit"},
        "ZeRO, optimizer offloaded": {"sharding": "zero2", "offload": "optimizer"},
        "ZeRO-3, all offloaded": {"sharding": "zero3", "offload": "optimizer_and_parameters"},
        "FSDP2, all offloaded": {"sharding": "fsdp", "offload": "optimizer_and_parameters"},
    }
)
ALONE = ("compile", "Adafactor", "8-bit AdamW")
"""Probed on one rank of the CPU."""
OFFLOADED = ("ZeRO, optimizer offloaded", "ZeRO-3, all offloaded", "FSDP2, all offloaded")
"""Probed on two."""


def _worlds_on_cpu(option: str) -> Sequence[int]:
    return (1,) if option in ALONE else (2,) if option in OFFLOADED else (1, 2)


ON_CPU = Cases(
    models=("llama-34m", "gpt2-52m", "qwen3-70m"),
    worlds=(1, 2),
    shardings={1: ("ddp",), 2: ("ddp", "fsdp", "zero1", "zero2", "zero3"), 4: ("ddp", "fsdp")},
    choices={
        "micro_batch_size": (1, 2, 3, 4, 6, 8),
        "sequence_length": (128, 256, 512),
        "precision": ("fp32", "bf16", "bf16_pure"),
        "optimizer": ("adamw", "adamw", "sgd"),
        "activation_checkpointing": ("none", "selective", "full"),
        "gradient_accumulation_steps": (1, 1, 2),
        "attention": ("sdpa", "sdpa", "eager"),
    },
    options={
        **{name: Option(_worlds_on_cpu(name), values) for name, values in BOTH_DEVICES.items()},
        "fp16": Option((1,), {"precision": "fp16"}),
        "tensor parallel": Option((2, 4), {"tensor_parallel_size": 2}),
        "pipeline": Option((2, 4), PIPELINE),
        "GPipe": Option((2, 4), {**PIPELINE, "pipeline_schedule": "gpipe"}),
        "HSDP": Option((4,), {"sharding": "hsdp"}, num_nodes=2),
        "context parallel": Option((2, 4), {"context_parallel_size": 2}),
        "experts": Option((1, 2), {}, "mixtral-40m"),
    },
    enough_tokens=1024,
    fills_at_most=1.0,
)
ON_GPU = Cases(
    models=("llama-3.2-1b", "qwen3-0.6b", "gpt2-medium"),
    worlds=(1,),
    shardings={1: ("ddp", "ddp", "ddp", "fsdp", "zero1", "zero2", "zero3")},
    choices={
        "micro_batch_size": (1, 2, 3, 4, 6, 8, 12),
        "sequence_length": (512, 1024, 2048, 4096),
        "precision": ("fp32", "bf16", "bf16", "bf16", "bf16", "bf16_pure", "bf16_pure", "fp16"),
        "optimizer": ("adamw", "adamw", "adamw", "sgd"),
        "activation_checkpointing": ("none", "selective", "full"),
        "gradient_accumulation_steps": (1, 1, 2),
        "attention": ("sdpa", "sdpa", "sdpa", "eager"),
    },
    options={
        **{name: Option((1,), values) for name, values in BOTH_DEVICES.items()},
        "activations offloaded": Option((1,), {"offload": "activations", "activation_checkpointing": "none"}),
        "LoRA, 8B": Option((1,), {**LORA, "precision": "bf16"}, "llama-3.1-8b"),
        "LoRA on int4, 8B": Option(
            (1,), {**LORA, "base_weights": "int4", "precision": "bf16"}, "llama-3.1-8b"
        ),
        "experts": Option((1,), {}, "mixtral-800m"),
    },
    enough_tokens=2048,
    fills_at_most=0.9,
)
CASES: Mapping[DeviceKind, Cases] = MappingProxyType({"cpu": ON_CPU, "cuda": ON_GPU})
MEASUREMENT = MeasurementPlan(max_warm_up_steps=2, least_steps=1, min_steps=3, max_steps=3, max_measure_s=6)


@dataclass(frozen=True)
class Case:
    """One model on one world of a machine."""

    name: str
    inventory: str
    """As JSON: what a forecast of the same machine needs, wherever it is made."""

    @classmethod
    def of(cls, name: str, group: NodeGroup) -> "Case":
        return cls(name, json.dumps(Inventory((group,)).to_dict()))

    @cached_property
    def group(self) -> NodeGroup:
        return Inventory.from_dict(json.loads(self.inventory)).group

    @property
    def world_size(self) -> int:
        return self.group.world_size

    @property
    def device(self) -> DeviceKind:
        return self.group.gpu.kind

    @property
    def spec(self) -> ModelSpec:
        if self.name in OWN:
            return ModelSpec(name=self.name, hf_config=clean(OWN[self.name], self.name).config)
        return resolve(self.name).spec

    @property
    def shape(self) -> ModelShape:
        assert self.spec.hf_config is not None
        shape = shape_of(self.spec.hf_config)
        assert shape is not None
        return shape

    def forecast(self, configs: Sequence[TrainingConfig]) -> Forecast:
        return forecast(self.shape, self.group, self.world_size, Columns.of(configs))

    def request(self, config: TrainingConfig, number: int) -> ProbeRequest:
        return ProbeRequest(
            probe_id=f"{self.name}-{self.world_size}-{number}",
            model=self.spec,
            config=config,
            device=self.device,
            world_size=self.world_size,
            num_nodes=self.group.num_nodes,
            measurement=MEASUREMENT,
        )

    def legal_configs(self, rng: random.Random, option: str = PLAIN) -> Iterator[TrainingConfig]:
        cases = CASES[self.device]
        values = cases.options[option].values if option else {}
        facts = facts_of(self.shape, self.group, self.world_size)
        choices = {**cases.choices, "sharding": cases.shardings[self.world_size]}
        seen = set()
        while True:
            drawn = {field: rng.choice(known) for field, known in choices.items()}
            config = TrainingConfig(**drawn).model_copy(update=dict(values))
            too_few = option and config.micro_batch_size * config.sequence_length < cases.enough_tokens
            if too_few or config in seen or why_illegal(config, facts) is not None:
                continue
            if self.forecast([config]).device_bytes[0] <= cases.fills_at_most * self.group.gpu.memory_bytes:
                seen.add(config)
                yield config
