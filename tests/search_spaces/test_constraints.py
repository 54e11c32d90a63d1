"""Each rule, on a configuration that breaks it alone."""

from dataclasses import replace

import pytest

from search_spaces.columns import Columns
from search_spaces.constraints import sift, why_illegal
from search_spaces.rules import Facts
from trials.contract.capabilities import REFUSALS, Refusal, refusals
from trials.contract.config import TrainingConfig

ONE_NODE = Facts(
    world_size=8,
    gpus_per_node=8,
    features=frozenset({"cuda", "bf16", "fp16", "fp8"}),
    num_heads=32,
    num_kv_heads=8,
    num_layers=16,
    vocab_size=32000,
    max_positions=4096,
    model_type="llama",
    to_probe=False,
)
TWO_NODES = replace(ONE_NODE, world_size=16)
ONE_RANK = replace(ONE_NODE, world_size=1)
BATCH = replace(ONE_NODE, global_batch_size=100)

ILLEGAL = [
    (ONE_NODE, {"tensor_parallel_size": 3}, "8 ranks does not divide by tensor_parallel_size 3"),
    (ONE_NODE, {"tensor_parallel_size": 16}, "8 ranks does not divide by tensor_parallel_size 16"),
    (TWO_NODES, {"tensor_parallel_size": 16}, "32 attention heads and 8 key-value heads"),
    (replace(ONE_NODE, vocab_size=50257), {"tensor_parallel_size": 2}, "vocabulary of 50257"),
    (
        replace(TWO_NODES, num_kv_heads=16),
        {"tensor_parallel_size": 16},
        "does not divide the 8 GPUs of a node",
    ),
    (
        replace(ONE_NODE, num_layers=4),
        {"pipeline_parallel_size": 8, "gradient_accumulation_steps": 8},
        "more stages than the 4 layers",
    ),
    (ONE_NODE, {"pipeline_parallel_size": 4, "gradient_accumulation_steps": 2}, "fewer microbatches"),
    (ONE_NODE, {"pipeline_schedule": "gpipe"}, "without the stages of a pipeline pipeline_schedule gpipe"),
    (ONE_NODE, {"sequence_length": 4097}, "4097 is longer than the model's 4096 positions"),
    (ONE_NODE, {"sequence_length": 1026, "context_parallel_size": 4}, "1026 does not divide by twice"),
    (ONE_NODE, {"sequence_length": 1028, "context_parallel_size": 4}, "an early and a late piece"),
    (ONE_NODE, {"attention": "eager", "context_parallel_size": 2}, "not attention=eager"),
    (replace(ONE_NODE, model_type="gemma2"), {}, "gemma2 has no sdpa attention"),
    (ONE_NODE, {"sharding": "hsdp"}, "the 8 ranks are on one"),
    (ONE_RANK, {"sharding": "fsdp"}, "sharding fsdp splits nothing"),
    (ONE_NODE, {"sharding": "zero1", "tensor_parallel_size": 8}, "sharding zero1 splits nothing"),
    (BATCH, {"gradient_accumulation_steps": 14}, "misses the global batch of 100 by more than 10%"),
    (replace(ONE_NODE, to_probe=True), {"tensor_parallel_size": 2}, "DDP does not average gradients"),
    (
        replace(ONE_NODE, tied_embeddings=True),
        {"tensor_parallel_size": 2, "sharding": "fsdp"},
        "ties its head to its embedding",
    ),
    (
        replace(ONE_NODE, to_probe=True, sliding_window=2048),
        {"tensor_parallel_size": 2, "sharding": "fsdp", "sequence_length": 2048},
        "look back over 2048 tokens only",
    ),
    (
        replace(ONE_NODE, to_probe=True, sliding_window=1024),
        {"context_parallel_size": 2, "sequence_length": 2048},
        "look back over 1024 tokens only",
    ),
    (
        replace(ONE_NODE, model_type="gemma2"),
        {"attention": "eager", "loss": "chunked"},
        "the cap on the logits of gemma2",
    ),
    (
        replace(ONE_NODE, stacked_experts=True),
        {"adaptation": "lora", "base_weights": "int4"},
        "experts are stacked parameters",
    ),
    (ONE_NODE, {"precision": "fp8", "sequence_length": 1000, "micro_batch_size": 3}, "multiple of 16 tokens"),
    (
        replace(ONE_NODE, model_type="gpt2"),
        {"adaptation": "lora", "base_weights": "int4"},
        "the layers of gpt2 have no nn.Linear",
    ),
    (
        replace(ONE_NODE, to_probe=True),
        {
            "tensor_parallel_size": 2,
            "pipeline_parallel_size": 2,
            "gradient_accumulation_steps": 4,
            "sharding": "fsdp",
        },
        "no engine probes tensor parallelism with a pipeline yet",
    ),
    (replace(ONE_NODE, features=frozenset({"cpu", "fp16"})), {"precision": "bf16"}, "no bf16"),
]


@pytest.mark.parametrize(("facts", "changes", "says"), ILLEGAL)
def test_why_a_configuration_is_illegal(facts, changes, says):
    reason = why_illegal(TrainingConfig(**changes), facts)
    assert reason is not None
    assert says in reason


LEGAL = [
    (ONE_NODE, {}),
    (ONE_NODE, {"tensor_parallel_size": 8}),
    (ONE_NODE, {"pipeline_parallel_size": 8, "gradient_accumulation_steps": 8}),
    (
        ONE_NODE,
        {"pipeline_schedule": "gpipe", "pipeline_parallel_size": 8, "gradient_accumulation_steps": 8},
    ),
    (ONE_NODE, {"sequence_length": 4096, "context_parallel_size": 4}),
    (replace(ONE_NODE, max_positions=None), {"sequence_length": 2**20}),
    (TWO_NODES, {"sharding": "hsdp"}),
    (ONE_RANK, {"sharding": "zero2", "offload": "optimizer"}),
    (BATCH, {"gradient_accumulation_steps": 13}),
    (replace(ONE_NODE, model_type="gemma2"), {"attention": "eager"}),
    (ONE_NODE, {"compile": True}),
]


@pytest.mark.parametrize(("facts", "changes"), LEGAL)
def test_what_breaks_no_rule_is_legal(facts, changes):
    assert why_illegal(TrainingConfig(**changes), facts) is None


@pytest.mark.parametrize(
    "features", [{"cpu", "bf16", "fp16"}, {"cuda", "fp16"}, {"cuda", "bf16", "fp16", "fp8"}]
)
@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: "+".join((*row.values, *row.parallel)))
def test_the_table_of_capabilities_holds(row: Refusal, features):
    """The first values that a row names are refused wherever the row applies."""
    facts = replace(ONE_NODE, features=frozenset(features), to_probe=True)
    fields = {field: values[0] for field, values in row.values.items()} | dict.fromkeys(row.parallel, 2)
    config = TrainingConfig(**fields, gradient_accumulation_steps=4)
    if row in refusals(facts.features):
        assert why_illegal(config, facts) is not None


def test_each_configuration_is_counted_under_the_first_rule_it_breaks():
    rows = [
        TrainingConfig(),
        TrainingConfig(tensor_parallel_size=3, sequence_length=9999),
        TrainingConfig(tensor_parallel_size=5),
        TrainingConfig(sequence_length=9999),
    ]
    legal, rejections = sift(Columns.of(rows), ONE_NODE)
    assert legal.tolist() == [True, False, False, False]
    assert [(r.code, r.count) for r in rejections] == [("world_size", 2), ("max_positions", 1)]
    assert "tensor_parallel_size 3, 5" in rejections[0].reason


def test_without_lora_one_rank_of_it_is_enough():
    configs = [
        TrainingConfig(adaptation=adaptation, lora_rank=rank)
        for adaptation in ("full", "lora")
        for rank in (8, 16, 32)
    ]
    legal, (rejection,) = sift(Columns.of(configs), ONE_NODE)
    assert legal.tolist() == [True, False, False, True, True, True]
    assert rejection.code == "lora_rank"
    assert "lora_rank (16, 32) changes nothing" in rejection.reason


def test_many_values_are_named_by_their_range():
    rows = [TrainingConfig(sequence_length=length) for length in range(5000, 5010)]
    _, (rejection,) = sift(Columns.of(rows), ONE_NODE)
    assert "5000 to 5009" in rejection.reason
