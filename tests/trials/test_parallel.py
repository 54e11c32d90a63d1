"""Tensor, pipeline, context and node-wise parallelism train as one fp32 process does."""

from collections.abc import Callable
from typing import Any

import pytest
from agreement import Reference, check, trained
from pairs import COMPILED, beside
from probes import CPU, DECODER, GRANITE, TINY, hf_model, probe

from trials.contract.messages import ModelSpec, ProbeRequest, ProbeResult
from trials.contract.outcome import Outcome

Run = Callable[[ProbeRequest], ProbeResult]

TENSOR, STAGES, CONTEXT = "tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size"
SCHEDULE = "pipeline_schedule"
TWO = [
    {TENSOR: 2, "micro_batch_size": 4, "gradient_accumulation_steps": 2},
    {STAGES: 2, "micro_batch_size": 2, "gradient_accumulation_steps": 4},
    {CONTEXT: 2, "micro_batch_size": 4, "gradient_accumulation_steps": 2},
    {CONTEXT: 2, "micro_batch_size": 8, "sharding": "fsdp"},
    {TENSOR: 2, "micro_batch_size": 8, "activation_checkpointing": "selective"},
    {TENSOR: 2, "micro_batch_size": 8, "activation_checkpointing": "full", "optimizer": "sgd"},
    {CONTEXT: 2, "micro_batch_size": 8, "activation_checkpointing": "full"},
    {STAGES: 2, "micro_batch_size": 4, "gradient_accumulation_steps": 2, "activation_checkpointing": "full"},
    {STAGES: 2, SCHEDULE: "gpipe", "micro_batch_size": 2, "gradient_accumulation_steps": 4},
]
FOUR = [
    {TENSOR: 2, "sharding": "fsdp", "micro_batch_size": 2, "gradient_accumulation_steps": 2},
    {STAGES: 2, "sharding": "ddp", "micro_batch_size": 1, "gradient_accumulation_steps": 4},
    {STAGES: 2, "sharding": "fsdp", "micro_batch_size": 2, "gradient_accumulation_steps": 2},
    {
        STAGES: 2,
        SCHEDULE: "gpipe",
        "sharding": "ddp",
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 4,
    },
    {
        STAGES: 2,
        SCHEDULE: "gpipe",
        "sharding": "fsdp",
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 2,
    },
    {CONTEXT: 2, "sharding": "fsdp", "micro_batch_size": 2, "gradient_accumulation_steps": 2},
    {CONTEXT: 2, "sharding": "ddp", "micro_batch_size": 4},
    {CONTEXT: 4, "micro_batch_size": 4, "gradient_accumulation_steps": 2},
]


def named(fields: dict[str, Any]) -> str:
    return "-".join(f"{name.split('_')[0]}={value}" for name, value in fields.items() if "batch" not in name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("fields", TWO, ids=named)
def test_two_ranks_share_one_replica(
    run: Run, reference: Reference, fields: dict[str, Any], precision: str
) -> None:
    config = {**fields, "precision": precision}
    check(run(probe(config=config)), reference(TINY["llama"], **trained(fields)), config)


@pytest.mark.parametrize("fields", FOUR, ids=named)
def test_four_ranks_share_and_replicate(run: Run, reference: Reference, fields: dict[str, Any]) -> None:
    check(run(probe(config=fields, world_size=4)), reference(TINY["llama"]), {})


BESIDE = [
    (size, fields) for size in (TENSOR, STAGES, CONTEXT) for fields in beside(size, CPU, without=COMPILED)
]
"""Parallel size, and what is not by default beside it."""


@pytest.mark.parametrize(
    ("size", "fields"), BESIDE, ids=lambda given: given if isinstance(given, str) else named(given)
)
def test_each_option_goes_with_ranks_that_share_a_replica(
    run: Run, reference: Reference, size: str, fields: dict[str, Any]
) -> None:
    microbatches = {"micro_batch_size": 4, "gradient_accumulation_steps": 2}
    config = {"precision": "fp32", **fields, **microbatches, size: 2}
    check(run(probe(config=config)), reference(TINY["llama"], **trained(fields)), config)


def test_stages_may_be_uneven(run: Run, reference: Reference) -> None:
    """Three layers on two ranks."""
    fields = {STAGES: 2, "micro_batch_size": 2, "gradient_accumulation_steps": 4}
    check(run(probe(TINY["llama-three"], fields)), reference(TINY["llama-three"]), {})


@pytest.mark.parametrize(
    ("model", "fields", "why"),
    [
        ("gpt2", {TENSOR: 2}, "transformers has no plan for the tensor parallelism"),
        ("llama-tied", {TENSOR: 2}, "but this model ties them"),
        ("llama-tied", {STAGES: 2, "gradient_accumulation_steps": 2}, "ties them"),
        ("factory", {STAGES: 2, "gradient_accumulation_steps": 2}, "not from a factory"),
        ("factory", {CONTEXT: 2}, "needs a Hugging Face model"),
        ("llama", {CONTEXT: 2, "sequence_length": 30}, "sequences of 30 do not divide into 4 pieces"),
    ],
)
def test_what_cannot_be_split_is_refused_in_words(
    run: Run, model: str, fields: dict[str, Any], why: str
) -> None:
    result = run(probe(TINY[model], fields))
    assert result.outcome == Outcome.INVALID
    assert why in (result.reason or "")


def test_a_model_that_scales_its_logits_is_not_cut_into_stages(run: Run) -> None:
    result = run(probe(GRANITE, {STAGES: 2, "gradient_accumulation_steps": 2}))
    assert result.outcome == Outcome.INVALID
    assert "would miss this model's embedding_multiplier, logits_scaling" in (result.reason or "")


def test_a_loss_that_is_more_than_of_the_last_stage_is_not_cut_either(run: Run) -> None:
    model = hf_model("mixtral", **DECODER, tie_word_embeddings=False, output_router_logits=True)
    result = run(probe(model, {STAGES: 2, "gradient_accumulation_steps": 2}))
    assert result.outcome == Outcome.INVALID
    assert "would miss this model's output_router_logits" in (result.reason or "")


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (
            hf_model("lfm2", **DECODER, layer_types=["conv", "full_attention"]),
            "1 of this model's 2 layers attend",
        ),
        (
            hf_model("falcon", **{**DECODER, "num_key_value_heads": 4}, alibi=False),
            "0 of this model's 2 layers attend",
        ),
        (
            hf_model("llama4_text", **DECODER, head_dim=8, num_local_experts=4, attention_chunk_size=8),
            "stays within chunks",
        ),
        (
            hf_model(
                "phi3",
                **DECODER,
                pad_token_id=0,
                original_max_position_embeddings=16,
                rope_parameters={
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "partial_rotary_factor": 1.0,
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0] * 4,
                    "factor": 4.0,
                    "original_max_position_embeddings": 16,
                },
            ),
            "(longrope) depend on how long",
        ),
    ],
    ids=lambda given: given.name if isinstance(given, ModelSpec) else "",
)
def test_layers_that_would_see_a_part_of_the_sequence_only_are_noticed(
    run: Run, model: ModelSpec, why: str
) -> None:
    result = run(probe(model, {CONTEXT: 2, "gradient_accumulation_steps": 2}))
    assert result.outcome == Outcome.INVALID
    assert why in (result.reason or "")
