"""Models outside the table: layers are measured when they are described, and forecasts meet the trace."""

import json
from dataclasses import asdict

import pytest
from probes import factory_model

from autotune.forecast.forecast import break_down, forecast
from autotune.hardware.parse import parse_inventory
from autotune.models.described import Description, describe
from autotune.models.hf import clean
from autotune.models.shape import ModelShape
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig
from trials.contract.messages import ModelSpec, ProbeRequest
from trials.trace import trace

OLMO2 = {
    "model_type": "olmo2", "vocab_size": 5000, "hidden_size": 512, "intermediate_size": 1408,
    "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8, "pad_token_id": 0,
    "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def olmo2() -> tuple[ModelSpec, Description]:
    spec = ModelSpec(name="olmo2", hf_config=clean(OLMO2, "test").config)
    return spec, describe(spec)


@pytest.mark.parametrize(
    ("world_size", "fields"),
    [
        (1, {"precision": "bf16"}),
        (1, {"precision": "fp32", "activation_checkpointing": "selective"}),
        (1, {"precision": "bf16_pure", "attention": "eager"}),
        (1, {"activation_checkpointing": "full", "gradient_accumulation_steps": 2}),
        (8, {"sharding": "fsdp"}),
    ],
)
def test_the_peak_of_an_unknown_family_is_that_of_the_trace(
    olmo2: tuple[ModelSpec, Description], world_size: int, fields: dict[str, object]
) -> None:
    spec, described = olmo2
    config = TrainingConfig(**{"micro_batch_size": 2, "sequence_length": 1024, **fields})
    traced = trace(ProbeRequest(probe_id="t", model=spec, config=config, world_size=world_size))
    phases = break_down(
        described.shape, parse_inventory(f"{world_size}xH100").group, world_size, config
    ).phases
    peak = max(sum(parts.values()) - parts["fixed"] for parts in phases.values())
    assert peak == pytest.approx(traced.peak_bytes, rel=0.02)


def test_what_was_measured_and_what_not_is_said(olmo2: tuple[ModelSpec, Description]) -> None:
    assert "was measured on fake tensors" in olmo2[1].notes[-1]


def test_a_shape_comes_back_from_json(olmo2: tuple[ModelSpec, Description]) -> None:
    shape = olmo2[1].shape
    assert shape.measured is not None
    assert ModelShape.from_dict(json.loads(json.dumps(asdict(shape)))) == shape
    of_old = {name: size for name, size in asdict(shape).items() if name != "measured"}
    assert ModelShape.from_dict(of_old).measured is None


def test_a_factory_is_measured_too() -> None:
    spec = factory_model("tiny:build")
    described = describe(spec)
    config = TrainingConfig(micro_batch_size=16, sequence_length=64)
    traced = trace(ProbeRequest(probe_id="t", model=spec, config=config))
    phases = break_down(described.shape, parse_inventory("H100").group, 1, config).phases
    peak = max(sum(parts.values()) - parts["fixed"] for parts in phases.values())
    assert peak == pytest.approx(traced.peak_bytes, rel=0.03)


def test_a_model_that_cannot_run_on_fake_tensors_is_taken_for_a_llama() -> None:
    described = describe(factory_model("unusable:reads_its_activations"))
    assert described.shape.measured is None
    assert "could not be measured" in described.notes[-1]
    group = parse_inventory("H100").group
    assert forecast(described.shape, group, 1, Columns.of([TrainingConfig()])).peak_bytes[0] > 0
