"""What must hold for every model, configuration and machine."""

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.forecast import constants
from autotune.forecast.activations import activations
from autotune.forecast.case import Case
from autotune.forecast.constants import CONSTANTS, ForecastConstants
from autotune.forecast.forecast import Forecast, forecast
from autotune.forecast.memory import PARTS
from autotune.hardware.inventory import NodeGroup
from autotune.models.shape import ModelShape
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig, choices

STATES = ("weights", "gradients", "master", "optimizer")


@st.composite
def shapes(draw: Callable[..., Any], min_layers: int = 1) -> ModelShape:
    heads, head_dim = draw(st.sampled_from([2, 4, 8])), draw(st.sampled_from([32, 64, 128]))
    kv_heads = draw(st.sampled_from([heads // 2, heads]))
    hidden = heads * head_dim
    width, layers = hidden * draw(st.integers(2, 4)), draw(st.integers(min_layers, 40))
    vocabulary, experts = draw(st.sampled_from([1000, 50257])), draw(st.sampled_from([1, 1, 4]))
    tied, gated = draw(st.booleans()), draw(st.booleans())
    attention = 2 * hidden * hidden + 2 * hidden * kv_heads * head_dim
    layer = attention + (3 if gated else 2) * hidden * width * experts + 2 * hidden
    return ModelShape(
        model_type=draw(st.sampled_from(["llama", "gpt2", "gemma2", "factory"])),
        num_parameters=layers * layer + (1 if tied else 2) * vocabulary * hidden + hidden,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocabulary,
        tied_embeddings=tied,
        gated_mlp=gated,
        num_experts=experts,
        experts_per_token=min(experts, 2),
        other_parameters=hidden,
    )


configs = st.builds(
    TrainingConfig,
    micro_batch_size=st.integers(1, 32),
    gradient_accumulation_steps=st.integers(1, 16),
    sequence_length=st.sampled_from([8, 256, 1000, 4096]),
    **{
        field: st.sampled_from(choices(field))
        for field in TrainingConfig.model_fields
        if choices(field) is not None
    },
    lora_rank=st.integers(1, 64),
    tensor_parallel_size=st.sampled_from([1, 1, 2]),
    pipeline_parallel_size=st.sampled_from([1, 1, 2, 4]),
    context_parallel_size=st.sampled_from([1, 1, 2]),
)
machines = st.sampled_from(["cuda", "cpu"])


@pytest.fixture(scope="module")
def run(node: NodeGroup, cpus: NodeGroup) -> Callable[..., Forecast]:
    def run(shape: ModelShape, machine: str, *rows: TrainingConfig, world_size: int = 16) -> Forecast:
        group = replace({"cuda": node, "cpu": cpus}[machine], num_nodes=world_size // 8 or 1)
        if machine == "cpu":
            group = replace(group, gpu=replace(group.gpu, tflops={**group.gpu.tflops, "fp16": 0.1}))
        return forecast(shape, group, world_size, Columns.of(rows))

    return run


WIDE_VOCABULARY = ModelShape(
    model_type="llama", num_parameters=92864, num_layers=1, hidden_size=64, intermediate_size=128,
    num_heads=2, num_kv_heads=1, head_dim=32, vocab_size=1000, tied_embeddings=True, gated_mlp=False,
    max_positions=None, other_parameters=64,
)  # fmt: skip

fast = settings(deadline=None, max_examples=60)


@fast
@given(shapes(), machines, st.lists(configs, min_size=1, max_size=20))
def test_parts_add_up_and_everything_is_a_figure(run, shape, machine, rows):
    found = run(shape, machine, *rows)
    assert len(found) == len(rows)
    assert tuple(found.parts) == PARTS
    assert all((part >= 0).all() for part in found.parts.values())
    assert (sum(found.parts.values()) == found.peak_bytes).all()
    assert (found.reserved_bytes > 0).all()
    assert (found.device_bytes == found.reserved_bytes + found.parts["fixed"]).all()
    for speed in (found.step_s, found.tokens_per_second):
        assert np.isfinite(speed).all()
        assert (speed > 0).all()
    assert (found.mfu is None) == (machine == "cpu")
    if found.mfu is not None:
        assert (found.mfu > 0).all()
        assert (found.mfu < 1).all()


def test_offloaded_gradients_are_not_taken_off_the_device_twice(run):
    """Found by the property above: a vocabulary that outweighs the layers, so that the embedding decides."""
    config = TrainingConfig(
        micro_batch_size=1, sequence_length=8, sharding="fsdp", offload="optimizer_and_parameters"
    )
    found = run(WIDE_VOCABULARY, "cuda", config)
    assert all((part >= 0).all() for part in found.parts.values())


@fast
@given(shapes(), machines, st.lists(configs, min_size=2, max_size=20))
def test_a_row_does_not_depend_on_its_neighbours(run, shape, machine, rows):
    together = run(shape, machine, *rows)
    for index, row in enumerate(rows):
        alone = run(shape, machine, row)
        assert alone.peak_bytes[0] == together.peak_bytes[index]
        assert alone.reserved_bytes[0] == together.reserved_bytes[index]
        assert alone.step_s[0] == pytest.approx(together.step_s[index])


@fast
@given(shapes(), machines, configs, st.sampled_from(["micro_batch_size", "sequence_length"]))
def test_memory_and_time_grow_with_tokens(run, shape, machine, config, field):
    sizes = [8, 9, 16, 64, 2048]
    found = run(shape, machine, *(config.model_copy(update={field: size}) for size in sizes))
    assert (np.diff(found.reserved_bytes) >= 0).all()
    if config.pipeline_parallel_size == 1:  # else the stage that holds most may change, and its peak
        assert (np.diff(found.peak_bytes) >= 0).all()
    assert (np.diff(found.step_s) >= 0).all()


@fast
@given(shapes(min_layers=8), machines, configs)
def test_full_checkpointing_keeps_less_and_takes_longer(run, node, shape, machine, config):
    every, inputs = (
        config.model_copy(update={"activation_checkpointing": mode}) for mode in ("none", "full")
    )
    case = Case(shape, node, 16, Columns.of([every, inputs]), CONSTANTS["cuda"])
    acts = activations(case)
    of_model = shape.num_layers * acts.saved + acts.recomputed
    assert of_model[1] < of_model[0]
    found = run(shape, machine, every, inputs)
    if config.offload != "activations":  # else what is not kept need not be copied either
        assert found.step_s[1] > found.step_s[0]


@fast
@given(shapes(min_layers=8), configs)
def test_full_checkpointing_never_peaks_higher_with_many_tokens(run, shape, config):
    rows = (
        config.model_copy(
            update={
                "activation_checkpointing": mode,
                "offload": "none",
                "pipeline_parallel_size": 1,
                "micro_batch_size": 64,
                "sequence_length": 4096,
            }
        )
        for mode in ("none", "full")
    )
    found = run(shape, "cuda", *rows)
    assert found.peak_bytes[1] <= found.peak_bytes[0]
    assert found.parts["activations"][1] <= found.parts["activations"][0]


@fast
@given(shapes(), machines, configs.filter(lambda config: config.sharding != "hsdp"))
def test_more_ranks_never_hold_more_states_each(run, shape, machine, config):
    config = config.model_copy(
        update={"tensor_parallel_size": 1, "pipeline_parallel_size": 1, "context_parallel_size": 1}
    )
    few, many = (run(shape, machine, config, world_size=world) for world in (2, 16))
    for part in ("weights", "master", "optimizer"):
        assert many.parts[part][0] <= few.parts[part][0]


@fast
@given(shapes(), machines, configs)
def test_fp32_states_are_at_least_those_of_pure_bf16(run, shape, machine, config):
    single, half = (config.model_copy(update={"precision": p}) for p in ("fp32", "bf16_pure"))
    found = run(shape, machine, single, half)
    for part in ("weights", "master", "optimizer"):
        assert found.parts[part][0] >= found.parts[part][1]


@fast
@given(shapes(), configs.filter(lambda config: config.sharding.startswith("zero")))
def test_offloading_frees_a_gpu_and_nothing_on_a_cpu(run, shape, config):
    here, away = (config.model_copy(update={"offload": place}) for place in ("none", "optimizer"))
    on_gpu, on_cpu = (run(shape, machine, here, away) for machine in ("cuda", "cpu"))
    assert on_gpu.parts["optimizer"][1] == on_gpu.parts["master"][1] == 0
    assert on_gpu.peak_bytes[1] <= on_gpu.peak_bytes[0]
    assert on_cpu.peak_bytes[1] >= on_cpu.peak_bytes[0]  # DeepSpeed offloads through buffers of its own
    for part in ("weights", "master", "optimizer"):
        assert on_cpu.parts[part][1] == on_cpu.parts[part][0]


@fast
@given(shapes(), configs)
def test_constant_columns_give_what_full_ones_give(node, shape, config):
    one = Columns.of([config])
    constant = Columns({field: np.broadcast_to(array, 5) for field, array in one.values.items()})
    full = Columns.of([config] * 5)
    short, long = (forecast(shape, node, 8, columns) for columns in (constant, full))
    assert short.peak_bytes.tolist() == long.peak_bytes.tolist()
    assert short.tokens_per_second.tolist() == long.tokens_per_second.tolist()


def test_every_constant_has_a_reader():
    sources = Path(constants.__file__).parent.glob("*.py")
    read = "".join(path.read_text() for path in sources)
    names = [field.name for field in fields(ForecastConstants)]
    unread = [name for name in names if not re.search(rf"constants(\[.*\])?\.{name}\b", read, re.IGNORECASE)]
    assert unread == []
