"""Memory of small cases, worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from autotune.forecast.case import Case
from autotune.forecast.constants import CONSTANTS
from autotune.forecast.forecast import Forecast, forecast
from autotune.forecast.phases import dequantised
from autotune.forecast.states import stages
from autotune.hardware.inventory import NodeGroup
from autotune.hardware.parse import parse_inventory
from autotune.models.shape import ModelShape
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig
from trials.contract.constants import engine_constants

LAYER = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64
ONE_LAYER = ModelShape(
    model_type="llama",
    num_parameters=2 * 1000 * 64 + LAYER + 64,
    num_layers=1,
    hidden_size=64,
    intermediate_size=128,
    num_heads=1,
    num_kv_heads=1,
    head_dim=64,
    vocab_size=1000,
    tied_embeddings=False,
    gated_mlp=True,
    other_parameters=64,
)
P = ONE_LAYER.num_parameters


def run(
    group: NodeGroup, *, shape: ModelShape = ONE_LAYER, world_size: int = 1, **fields: object
) -> Forecast:
    config = TrainingConfig(**{"sequence_length": 1, **fields})
    return forecast(shape, group, world_size, Columns.of([config]))


def parts(found: Forecast) -> dict[str, int]:
    return {name: int(part[0]) for name, part in found.parts.items()}


def test_one_token_of_adamw_in_fp32_takes_sixteen_bytes_per_parameter(cpus):
    interpreter = round(CONSTANTS["cpu"].context_bytes)
    assert parts(run(cpus, precision="fp32")) == {
        "weights": 4 * P,
        "gradients": 4 * P,
        "master": 0,
        "optimizer": 8 * P,
        "activations": 0,
        "transient": 4 * 64,  # the gradient that reaches the embedding
        "fixed": interpreter,
    }


def test_many_tokens_peak_at_the_loss(cpus):
    """512 tokens of fp32: a layer's and the norm's activations, and 12 bytes per logit; no gradient yet."""
    found = run(cpus, precision="fp32", sequence_length=512)
    layer = 24 * 64 + 8 * 64 + 8 * 64 + 16 * 128 + 4 + 8
    assert parts(found) | {"fixed": 0} == {
        "weights": 4 * P,
        "gradients": 0,
        "master": 0,
        "optimizer": 8 * P,
        "activations": 512 * (layer + 12 * 64 + 4),
        "transient": 512 * 1000 * 12,
        "fixed": 0,
    }


def test_autocast_keeps_copies_of_the_linear_weights(cpus):
    found = run(cpus, precision="bf16", sequence_length=512)
    layer = 26 * 64 + 4 * 64 + 4 * 64 + 8 * 128 + 4 + 8
    copies = 2 * (4 * 64 * 64 + 3 * 64 * 128) + 2 * 1000 * 64
    assert parts(found)["activations"] == 512 * (layer + 10 * 64 + 4) + copies


def test_checkpointing_keeps_the_input_of_each_layer(cpus):
    deep = replace(ONE_LAYER, num_layers=10, num_parameters=P + 9 * LAYER)
    found = run(cpus, shape=deep, precision="bf16_pure", sequence_length=512, activation_checkpointing="full")
    # At the loss: ten inputs and the final norm.
    assert parts(found)["activations"] == 512 * (10 * 2 * 64 + 8 * 64 + 4)


def test_checkpointing_leaves_the_copies_to_the_cache_of_autocast(cpus):
    """But the head's they are gone when many logits go backward; with few the forward's end is the peak."""
    fields = {"precision": "bf16", "activation_checkpointing": "full"}
    many = run(cpus, sequence_length=512, **fields)
    assert parts(many)["activations"] == 512 * (4 * 64 + 10 * 64 + 4) + 2 * 1000 * 64
    deep = replace(ONE_LAYER, vocab_size=1, num_layers=40, num_parameters=P + 39 * LAYER)
    few = run(cpus, shape=deep, sequence_length=512, gradient_accumulation_steps=2, **fields)
    copies = 40 * 2 * (4 * 64 * 64 + 3 * 64 * 128) + 2 * 64
    assert parts(few)["activations"] == 512 * (40 * 4 * 64 + 10 * 64 + 4) + copies


def test_gradients_exist_at_the_loss_when_they_accumulate(cpus):
    once, twice = (
        run(cpus, precision="fp32", sequence_length=512, gradient_accumulation_steps=steps)
        for steps in (1, 2)
    )
    assert parts(once)["gradients"] == 0
    assert parts(twice)["gradients"] == 4 * P


def test_ddp_keeps_its_buckets(cpus):
    found = run(cpus, world_size=2, precision="fp32", sequence_length=512)
    assert parts(found)["gradients"] == 4 * P


def test_ddp_that_accumulates_has_gradients_beside_its_buckets(cpus):
    """Those of the microbatches that it does not reduce; until each is copied into its bucket."""
    once, twice = (
        run(cpus, world_size=2, precision="fp32", sequence_length=512, gradient_accumulation_steps=steps)
        for steps in (1, 3)
    )
    assert parts(twice)["gradients"] == parts(once)["gradients"] + 4 * P


BUCKET = engine_constants(P).deepspeed_bucket_elements


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # sharding, precision → bytes per parameter of weights, master and optimizer on 4 ranks
        ({"sharding": "ddp", "precision": "bf16"}, (4, 0, 8)),
        ({"sharding": "ddp", "precision": "bf16_pure"}, (2, 0, 4)),
        ({"sharding": "zero1", "precision": "bf16"}, (2, 4 / 4, 8 / 4)),
        ({"sharding": "zero2", "precision": "fp32"}, (4, 4 / 4, 8 / 4)),
        ({"sharding": "zero3", "precision": "fp16"}, (2 / 4, 4 / 4, 8 / 4)),
        ({"sharding": "zero3", "precision": "bf16_pure"}, (2 / 4, 2 / 4, 4 / 4)),
        ({"sharding": "fsdp", "precision": "bf16"}, (4 / 4, 0, 8 / 4)),
        ({"sharding": "fsdp", "precision": "bf16_pure"}, (2 / 4, 0, 4 / 4)),
        ({"sharding": "zero2", "precision": "bf16", "optimizer": "sgd"}, (2, 4 / 4, 0)),
        ({"sharding": "zero2", "precision": "bf16", "offload": "optimizer"}, (2, 0, 0)),
        ({"sharding": "fsdp", "precision": "bf16", "offload": "optimizer_and_parameters"}, (0, 0, 0)),
        ({"sharding": "ddp", "precision": "bf16", "optimizer": "lion"}, (4, 0, 4)),
    ],
)
def test_states_on_four_gpus(node, fields, expected):
    found = parts(run(node, world_size=4, **fields))
    states = (found["weights"], found["master"], found["optimizer"])
    assert states == tuple(round(size * P) for size in expected)


def test_zero_pays_for_its_buckets_and_the_step(node):
    """Few tokens: the end of the backward, with gathered gradients, against the step's fp32 gradients."""
    found = parts(run(node, world_size=4, sharding="zero2", precision="bf16"))
    assert found["gradients"] == round(2 * P / 4)
    assert found["transient"] == 2 * 2 * BUCKET + 2 * 64 * 1000 + 2 * 64


def test_offloaded_gradients_leave_the_gpu(node):
    fields = {"sharding": "zero2", "precision": "bf16", "gradient_accumulation_steps": 2}
    here, away = (parts(run(node, world_size=4, offload=place, **fields)) for place in ("none", "optimizer"))
    assert here["gradients"] == round(2 * P / 4)
    assert away["gradients"] == 0


def test_fsdp_gathers_the_root_and_two_layers(node):
    """One token: a layer's backward, with the reduction of the one before it and the head's gradient.

    It is at its attention, when the gradients of all three feed-forward matrices are there.
    """
    width = 12_800
    root, vocabulary, layer = 2 * 64_000 + 64, 64_000, 4 * 64 * 64 + 3 * 64 * width + 2 * 64
    wide = replace(ONE_LAYER, intermediate_size=width, num_parameters=root + layer)
    found = run(node, shape=wide, world_size=4, sharding="fsdp", precision="bf16")
    given_back = (4 + 2) * 64 + 4 + 2 * 64 + 4 * 2 * width
    own = 2 * 3 * 64 * width + 2 * 64 + 2 * 2 * (64 + 64) - given_back
    gathered = 2 * root + 2 * 2 * layer + 4 * layer + 2 * vocabulary
    assert parts(found)["gradients"] == 0  # those of its one layer, and of the root, are still to be sharded
    assert parts(found)["transient"] == own + gathered
    pools = 2 * (root + root / 4 + layer) + 4 * wide.num_parameters / 4
    allocated = found.peak_bytes[0] - parts(found)["fixed"]
    assert found.reserved_bytes[0] == allocated + 2 * 1000 + pools


def test_tensor_parallel_ranks_split_all_but_what_they_gather_for_matmuls(node):
    fields = {"precision": "bf16_pure", "sequence_length": 512, "world_size": 2}
    found = parts(run(node, tensor_parallel_size=2, **fields))
    layer = 4 * 64 + (12 * 64 + 4 * 64 + 4 * 64 + 8 * 128 + 4 + 8) // 2
    assert found["activations"] == 512 * (layer + 2 * 64 + (6 * 64 + 4) // 2)
    assert found["weights"] == round(2 * ((P - 64) / 2 + 64))


def test_lora_trains_only_its_adapters(node):
    found = parts(run(node, precision="bf16_pure", adaptation="lora", lora_rank=4))
    adapters = 4 * (4 * (64 + 64) + 3 * (64 + 128))
    assert found["weights"] == 2 * P + 2 * adapters
    assert found["optimizer"] == 4 * adapters


def test_a_quantised_base_leaves_embedding_head_and_norms(node):
    found = parts(run(node, precision="bf16_pure", adaptation="lora", lora_rank=4, base_weights="int8"))
    adapters = 4 * (4 * (64 + 64) + 3 * (64 + 128))
    linear = 4 * 64 * 64 + 3 * 64 * 128
    assert found["weights"] == linear + 2 * (P - linear) + 2 * adapters


def test_few_experts_are_padded_for_many_ranks(node, h100):
    """FSDP2 splits along their number: on 8 ranks 2 experts are gathered as 8, and a rank has one of them."""
    experts = 2 * 3 * 64 * 128
    total = P + experts // 2 + 2 * 64
    shape = replace(ONE_LAYER, num_experts=2, experts_per_token=1, num_parameters=total)
    found = run(node, shape=shape, world_size=8, sharding="fsdp", precision="fp32")
    assert parts(found)["weights"] == round(4 * (total - experts) / 8 + 4 * experts / 2)


def test_what_the_allocator_holds_grows_with_tokens(node, llama_8b):
    """Without gradients another moment may be the fullest than with them."""
    lengths = (2048, 4096, 6144, 8192, 10240)
    fields = {"shape": llama_8b, "world_size": 8, "sharding": "fsdp", "activation_checkpointing": "full"}
    held = [run(node, sequence_length=n, **fields).reserved_bytes[0] for n in lengths]
    steps = np.diff(held)
    assert (steps > 0).all()
    assert steps.max() < 1.5 * steps.min()


def test_hsdp_shards_inside_a_node(h100):
    two_nodes = NodeGroup(h100, num_nodes=2, gpus_per_node=4, network_gb_per_s=50)
    inside, across = (run(two_nodes, world_size=8, sharding=sharding) for sharding in ("hsdp", "fsdp"))
    assert parts(inside)["optimizer"] == round(8 * P / 4)
    assert parts(across)["optimizer"] == round(8 * P / 8)


def test_a_pipeline_is_as_heavy_as_its_heavier_end(node):
    """The first stage holds a microbatch per stage; the last the logits."""
    deep = replace(ONE_LAYER, num_layers=8, num_parameters=P + 7 * LAYER)
    fields = {
        "shape": deep, "world_size": 4, "pipeline_parallel_size": 4, "gradient_accumulation_steps": 8,
        "sequence_length": 512, "precision": "bf16_pure",
    }  # fmt: skip
    first = parts(run(node, **fields | {"shape": replace(deep, vocab_size=2)}))
    layer = 16 * 64 + 4 * 64 + 4 * 64 + 8 * 128 + 4 + 8
    assert first["activations"] == 4 * 2 * 512 * layer
    last = parts(run(node, **fields | {"shape": replace(deep, vocab_size=10**6)}))
    assert last["activations"] == 2 * 512 * layer + 512 * (8 * 64 + 4)
    assert last["transient"] == 512 * 10**6 * 12


DEEP = replace(ONE_LAYER, num_layers=8, num_parameters=P + 7 * LAYER)
IN_STAGES = {
    "shape": DEEP, "world_size": 4, "pipeline_parallel_size": 4,
    "sequence_length": 512, "precision": "bf16_pure",
}  # fmt: skip


def test_gpipe_holds_all_microbatches_of_a_step_with_their_logits(node):
    """The last stage is the heavier then: it keeps layers, norm, logits and log-softmax of each."""
    found = parts(run(node, **IN_STAGES, pipeline_schedule="gpipe", gradient_accumulation_steps=8))
    layer = 16 * 64 + 4 * 64 + 4 * 64 + 8 * 128 + 4 + 8
    norm = 8 * 64 + 4
    assert found["activations"] == 512 * (8 * (2 * layer + norm) + 7 * (2 + 4) * 1000)
    assert found["transient"] == 512 * 1000 * 12


@pytest.mark.parametrize("steps", [4, 5, 8, 32])
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_pure"])
def test_gpipe_never_takes_less_memory_than_1f1b(node, precision, sharding, steps):
    fields = IN_STAGES | {
        "precision": precision, "sharding": sharding, "world_size": 8, "gradient_accumulation_steps": steps
    }  # fmt: skip
    gpipe, other = (run(node, **fields, pipeline_schedule=one) for one in ("gpipe", "1f1b"))
    assert gpipe.peak_bytes[0] >= other.peak_bytes[0]
    assert gpipe.reserved_bytes[0] >= other.reserved_bytes[0]
    assert gpipe.step_s[0] == other.step_s[0]


@pytest.mark.parametrize("steps", [2, 4])
def test_schedules_fill_the_first_stage_alike_with_few_microbatches(cpus, steps):
    """1F1B has as many in flight as there are stages, so with no more of them there is no difference."""
    columns = Columns.of(
        [
            TrainingConfig(
                pipeline_parallel_size=4, gradient_accumulation_steps=steps, pipeline_schedule=schedule
            )
            for schedule in ("1f1b", "gpipe")
        ]
    )
    _, first = stages(Case(DEEP, cpus, 4, columns, CONSTANTS["cpu"]))
    assert np.broadcast_to(first.in_flight, 2).tolist() == [steps, steps]


def test_with_one_microbatch_the_schedules_are_the_same(node):
    gpipe, other = (
        run(node, **IN_STAGES, gradient_accumulation_steps=1, pipeline_schedule=schedule)
        for schedule in ("gpipe", "1f1b")
    )
    assert parts(gpipe) == parts(other)


@pytest.mark.parametrize(("sharding", "more"), [("zero2", 4 + 2), ("zero3", 4)])
def test_deepspeed_offloads_within_a_cpu_through_further_buffers(cpus, sharding, more):
    """fp32 gradients of the partition; in ZeRO-2 its new weights, and twice the largest gradient."""
    pair = replace(cpus, gpus_per_node=2)
    fields = {
        "shape": DEEP,
        "world_size": 2,
        "sharding": sharding,
        "precision": "bf16",
        "sequence_length": 512,
    }
    with_it, without = (parts(run(pair, **fields, offload=place)) for place in ("optimizer", "none"))
    largest = 2 * 2 * 1000 * 64 * (sharding == "zero2")
    assert with_it["transient"] - without["transient"] == more * DEEP.num_parameters / 2 + largest


def test_a_ceiling_counts_context_and_communicators(node):
    constants = CONSTANTS["cuda"]
    assert parts(run(node))["fixed"] == round(constants.context_bytes)
    assert parts(run(node, world_size=8))["fixed"] == round(
        constants.context_bytes + constants.first_communicator_bytes
    )


def test_the_largest_matrix_of_a_quantised_layer_is_there_in_two_bytes():
    """In phi3 that of gate and up, or of queries, keys and values, together."""
    config = TrainingConfig(adaptation="lora", base_weights="int8", precision="bf16_pure")
    group = parse_inventory("H100:1").group
    wide = replace(ONE_LAYER, intermediate_size=32)
    for shape, rows in (
        (ONE_LAYER, 128),
        (replace(ONE_LAYER, model_type="phi3"), 2 * 128),
        (replace(wide, model_type="phi3"), 3 * 64),
    ):
        case = Case(shape, group, 1, Columns.of([config]), CONSTANTS["cuda"])
        assert dequantised(case)[0] == 2 * 64 * rows
