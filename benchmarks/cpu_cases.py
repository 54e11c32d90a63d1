"""Models, worlds and options of which random configurations are probed on this machine's CPU."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from autotune.forecast.forecast import Forecast, forecast
from autotune.hardware.inventory import NodeGroup
from autotune.hardware.parse import parse_inventory
from autotune.models.closed_form import shape_of
from autotune.models.hf import clean
from autotune.models.shape import ModelShape
from autotune.search.facts import facts_of
from search_spaces.columns import Columns
from search_spaces.constraints import why_illegal
from trials.contract.config import TrainingConfig
from trials.contract.messages import MeasurementPlan, ModelSpec, ProbeRequest

ENOUGH_TOKENS = 1024
MODELS: dict[str, dict[str, Any]] = {
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
}  # fmt: skip
WITH_EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral-40m": {
        "model_type": "mixtral", "vocab_size": 16000, "hidden_size": 384, "intermediate_size": 768,
        "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2, "num_local_experts": 8,
        "num_experts_per_tok": 2, "max_position_embeddings": 2048, "tie_word_embeddings": False,
        "pad_token_id": 0,
    },
}  # fmt: skip
WORLDS = (1, 2)
SHARDINGS = {1: ("ddp",), 2: ("ddp", "fsdp", "zero1", "zero2", "zero3"), 4: ("ddp", "fsdp")}
PLAIN = ""
"""Name of what is no option."""


@dataclass(frozen=True)
class Option:
    """Values to have beside random ones."""

    worlds: Sequence[int]
    values: Mapping[str, Any]
    model: str = "llama-34m"


LORA = {"adaptation": "lora"}
OPTIONS: Mapping[str, Option] = MappingProxyType(
    {
        "LoRA": Option((1, 2), LORA),
        "LoRA on int8": Option((1, 2), {**LORA, "base_weights": "int8"}),
        "LoRA on int4": Option((1, 2), {**LORA, "base_weights": "int4"}),
        "quantisation-aware int8": Option((1, 2), {"quantization_aware": "int8"}),
        "quantisation-aware int4": Option((1, 2), {"quantization_aware": "int4"}),
        "fp8": Option((1, 2), {"precision": "fp8"}),
        "chunked loss": Option((1, 2), {"loss": "chunked"}),
        "compile": Option((1,), {"compile": True}),
        "Adam": Option((1, 2), {"optimizer": "adam"}),
        "Adafactor": Option((1,), {"optimizer": "adafactor"}),
        "Lion": Option((1, 2), {"optimizer": "lion"}),
        "8-bit AdamW": Option((1,), {"optimizer": "adamw_8bit"}),
        "ZeRO, optimizer offloaded": Option((2,), {"sharding": "zero2", "offload": "optimizer"}),
        "ZeRO-3, all offloaded": Option((2,), {"sharding": "zero3", "offload": "optimizer_and_parameters"}),
        "FSDP2, all offloaded": Option((2,), {"sharding": "fsdp", "offload": "optimizer_and_parameters"}),
        "tensor parallel": Option((2, 4), {"tensor_parallel_size": 2}),
        "pipeline": Option((2, 4), {"pipeline_parallel_size": 2, "gradient_accumulation_steps": 4}),
        "context parallel": Option((2, 4), {"context_parallel_size": 2}),
        "experts": Option((1, 2), {}, "mixtral-40m"),
    }
)
MEASUREMENT = MeasurementPlan(max_warm_up_steps=2, least_steps=1, min_steps=3, max_steps=3, max_measure_s=6)


@dataclass(frozen=True)
class Case:
    """One model on one world of a machine."""

    name: str
    world_size: int
    tflops: tuple[tuple[str, float], ...]
    """Rates of the machine's cores, by precision."""

    @property
    def spec(self) -> ModelSpec:
        config = {**MODELS, **WITH_EXPERTS}[self.name]
        return ModelSpec(name=self.name, hf_config=clean(config, self.name).config)

    @property
    def shape(self) -> ModelShape:
        assert self.spec.hf_config is not None
        shape = shape_of(self.spec.hf_config)
        assert shape is not None
        return shape

    @property
    def group(self) -> NodeGroup:
        here = parse_inventory(f"cpu:{self.world_size}").group
        return replace(here, gpu=replace(here.gpu, tflops=dict(self.tflops)))

    def forecast(self, configs: Sequence[TrainingConfig]) -> Forecast:
        return forecast(self.shape, self.group, self.world_size, Columns.of(configs))

    def request(self, config: TrainingConfig, number: int) -> ProbeRequest:
        return ProbeRequest(
            probe_id=f"{self.name}-{self.world_size}-{number}",
            model=self.spec,
            config=config,
            world_size=self.world_size,
            measurement=MEASUREMENT,
        )

    def legal_configs(self, rng: random.Random, option: str = PLAIN) -> Iterator[TrainingConfig]:
        values = OPTIONS[option].values if option else {}
        facts = facts_of(self.shape, self.group, self.world_size)
        seen = set()
        while True:
            config = TrainingConfig(
                micro_batch_size=rng.choice([1, 2, 3, 4, 6, 8]),
                sequence_length=rng.choice([128, 256, 512]),
                precision=rng.choice(["fp32", "bf16", "bf16_pure"]),
                optimizer=rng.choice(["adamw", "adamw", "sgd"]),
                activation_checkpointing=rng.choice(["none", "selective", "full"]),
                gradient_accumulation_steps=rng.choice([1, 1, 2]),
                attention=rng.choice(["sdpa", "sdpa", "eager"]),
                sharding=rng.choice(SHARDINGS[self.world_size]),
            ).model_copy(update=dict(values))
            too_few = option and config.micro_batch_size * config.sequence_length < ENOUGH_TOKENS
            if not too_few and config not in seen and why_illegal(config, facts) is None:
                seen.add(config)
                yield config
