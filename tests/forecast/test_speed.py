"""Step times: by hand where the terms are few, by comparison where they are many."""

from dataclasses import replace

import numpy as np
import pytest

from autotune.errors import BadInput
from autotune.forecast.constants import CONSTANTS
from autotune.forecast.forecast import Forecast, forecast
from autotune.hardware.inventory import NodeGroup
from autotune.models import presets
from autotune.models.closed_form import shape_of
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig


@pytest.fixture
def run(llama_8b, node):
    def run(*rows: dict[str, object], group: NodeGroup = node, world_size: int = 8) -> Forecast:
        configs = [TrainingConfig(**{"sequence_length": 4096, "sharding": "fsdp", **row}) for row in rows]
        return forecast(llama_8b, group, world_size, Columns.of(configs))

    return run


def test_mfu_follows_the_stated_convention(run, llama_8b):
    found = run({})
    h, k, f, layers, vocabulary = 4096, 1024, 14336, 32, 128256
    matmul = layers * (2 * h * h + 2 * h * k + 3 * h * f) + vocabulary * h
    per_token = 6 * matmul + 12 * layers * h * 4096 / 2
    assert found.mfu is not None
    assert found.mfu[0] == pytest.approx(per_token * found.tokens_per_second[0] / (8 * 989e12))


def test_tokens_per_second_are_those_of_the_whole_job(run):
    found = run({"micro_batch_size": 3, "gradient_accumulation_steps": 5})
    assert found.tokens_per_second[0] == pytest.approx(3 * 5 * 8 * 4096 / found.step_s[0])
    found = run({"micro_batch_size": 3, "tensor_parallel_size": 2, "context_parallel_size": 2})
    assert found.tokens_per_second[0] == pytest.approx(3 * 2 * 4096 / found.step_s[0])


def test_a_gradient_all_reduce_is_two_rings(run, node, llama_8b):
    """Without anything to hide behind, two ranks take longer than one by exactly the all-reduce."""
    constants = replace(CONSTANTS["cuda"], hidden_share=0.0)
    columns = Columns.of([TrainingConfig(precision="fp32")])
    alone, both = (forecast(llama_8b, node, world, columns, constants) for world in (1, 2))
    rate = constants.link_efficiency * 450e9
    ring = constants.link_latency_s + 4 * llama_8b.num_parameters / (2 * rate)
    assert both.step_s[0] - alone.step_s[0] == pytest.approx(2 * ring)


def test_what_costs_time_costs_time(run):
    plain, full, selective, accumulated, eager = run(
        {},
        {"activation_checkpointing": "full"},
        {"activation_checkpointing": "selective"},
        {"gradient_accumulation_steps": 2},
        {"attention": "eager"},
    ).step_s
    assert plain < selective < full < 1.5 * plain
    assert 1.5 * plain < accumulated < 2.5 * plain
    assert plain < eager


def test_larger_micro_batches_are_more_efficient(run):
    found = run(*({"micro_batch_size": size} for size in (1, 2, 3, 4, 8)))
    assert (np.diff(found.tokens_per_second) > 0).all()


def test_a_slower_network_slows_what_crosses_it(run, h100):
    fast, slow = (NodeGroup(h100, num_nodes=2, gpus_per_node=8, network_gb_per_s=rate) for rate in (50, 1))
    rows = ({"sharding": sharding} for sharding in ("ddp", "fsdp", "hsdp", "zero1", "zero2", "zero3"))
    rows = tuple(rows)
    assert (run(*rows, group=slow, world_size=16).step_s > run(*rows, group=fast, world_size=16).step_s).all()
    np.testing.assert_array_equal(
        run(*rows[:2], group=slow, world_size=8).step_s, run(*rows[:2], group=fast, world_size=8).step_s
    )


def test_hsdp_is_faster_than_fsdp_over_a_slow_network(run, h100):
    slow = NodeGroup(h100, num_nodes=4, gpus_per_node=8, network_gb_per_s=2)
    hsdp, fsdp = run({"sharding": "hsdp"}, {"sharding": "fsdp"}, group=slow, world_size=32).step_s
    assert hsdp < fsdp


def test_an_offloaded_step_is_slower_and_accumulation_pays_for_it(run):
    rows = [
        {"sharding": "zero2", "offload": offload, "gradient_accumulation_steps": steps}
        for steps in (1, 16)
        for offload in ("none", "optimizer")
    ]
    here, away, here_later, away_later = run(*rows).tokens_per_second
    assert away < here
    assert away / here < away_later / here_later


def test_offloaded_activations_cross_pcie_and_back(run):
    fields = {"micro_batch_size": 4, "sequence_length": 8192}
    here, away = run(fields, {**fields, "offload": "activations"}).step_s
    assert away > 2.5 * here  # 30 layers keep 180 GB, and their copies are in line with the kernels


def test_offloaded_parameters_come_with_every_microbatch(run):
    rows = [
        {"offload": place, "gradient_accumulation_steps": steps, "sequence_length": 128}
        for place in ("none", "optimizer_and_parameters")
        for steps in (1, 9)
    ]
    here, here_later, away, away_later = run(*rows).step_s
    # 12 GB each, beside the collectives and some of it behind compute.
    assert away_later - away > 1.1 * (here_later - here)


def test_a_ring_over_nodes_uses_the_interface_of_each_gpu(run, h100):
    fields = {"micro_batch_size": 1, "sequence_length": 2048}
    one, two = (NodeGroup(h100, num_nodes=nodes, gpus_per_node=8, network_gb_per_s=50) for nodes in (1, 2))
    alone = run(fields, group=one, world_size=8).tokens_per_second[0]
    both = run(fields, group=two, world_size=16).tokens_per_second[0]
    assert 1.5 * alone < both < 2.2 * alone


def test_a_pipeline_idles_while_it_fills(run):
    few, many = run(
        *(
            {"sharding": "ddp", "pipeline_parallel_size": 4, "gradient_accumulation_steps": steps}
            for steps in (4, 64)
        )
    ).tokens_per_second
    assert few / many == pytest.approx((4 / 7) / (64 / 67), rel=0.05)


def test_fsdp_in_a_pipeline_gathers_once_a_step(run):
    """As its memory has it: parameters stay whole between microbatches."""
    rows = [
        {"pipeline_parallel_size": 2, "gradient_accumulation_steps": steps, "sharding": sharding}
        | {"sequence_length": 128, "precision": "bf16_pure"}
        for sharding in ("ddp", "fsdp")
        for steps in (2, 9)
    ]
    alone, alone_later, sharded, sharded_later = run(*rows).step_s
    assert sharded_later - sharded == pytest.approx(alone_later - alone, rel=0.05)


def test_a_window_spares_only_kernels_that_skip_it(run, node, llama_8b):
    def seconds(shape, attention):
        config = TrainingConfig(sequence_length=32768, attention=attention, sharding="fsdp")
        return forecast(shape, node, 8, Columns.of([config])).step_s[0]

    windowed = replace(llama_8b, sliding_window=1024, windowed_layers=32)
    wide = replace(windowed, sliding_window=65536)
    assert seconds(windowed, "flash") < 0.8 * seconds(llama_8b, "flash")
    assert seconds(windowed, "sdpa") > 1.2 * seconds(llama_8b, "sdpa")  # a masked kernel is not causal
    assert seconds(windowed, "eager") == seconds(llama_8b, "eager")
    assert seconds(wide, "sdpa") == seconds(llama_8b, "sdpa")


def test_a_quantised_base_is_written_out_for_each_matmul_and_gathered_as_it_is_stored(run, h100):
    fields = {"adaptation": "lora", "precision": "bf16_pure", "sequence_length": 512}
    native, int8, int4 = run(
        *(
            {"sharding": "ddp", "base_weights": base, "micro_batch_size": 4, **fields}
            for base in ("native", "int8", "int4")
        )
    ).step_s
    assert native < int4 < int8 < 1.5 * native
    slow = NodeGroup(h100, num_nodes=2, gpus_per_node=8, network_gb_per_s=0.1)
    native, int4 = run(
        *({"base_weights": base, **fields} for base in ("native", "int4")), group=slow, world_size=16
    ).step_s
    assert int4 < 0.6 * native


def test_few_tokens_wait_for_their_kernels_to_be_started(run, llama_8b):
    """So twice as many take no longer, until there are enough of them; what is compiled starts fewer."""
    rows = [{"sharding": "ddp", "sequence_length": tokens} for tokens in (16, 32, 4096, 8192)]
    few, more, many, twice_as_many = run(*rows, world_size=1).step_s
    assert more == pytest.approx(few, rel=0.01)
    assert twice_as_many > 1.8 * many
    (compiled,) = run({**rows[0], "compile": True}, world_size=1).step_s
    assert compiled < few
    (cast,) = run({**rows[0], "precision": "fp8"}, world_size=1).step_s
    assert cast > few


def test_autocast_leaves_experts_in_fp32(node):
    """torch's grouped matmul is not cast for; FSDP and pure bf16 hand it weights in two bytes."""
    shape = shape_of(presets.load("mixtral-8x7b"))
    assert shape is not None
    fields = {"sequence_length": 4096, "micro_batch_size": 4}
    columns = Columns.of(
        [
            TrainingConfig(sharding="ddp", precision="bf16", **fields),
            TrainingConfig(sharding="ddp", precision="bf16_pure", **fields),
            TrainingConfig(sharding="fsdp", precision="bf16", **fields),
        ]
    )
    autocast, pure, gathered = forecast(shape, node, 8, columns).step_s
    assert autocast > 4 * pure
    assert gathered < 1.5 * pure


def test_a_device_that_states_no_rate_is_named(run, node):
    without = replace(node, gpu=replace(node.gpu, tflops={"bf16": 989}))
    assert run({"precision": "bf16"}, group=without).step_s[0] > 0
    with pytest.raises(BadInput, match="H100 states no TFLOP/s for fp32"):
        run({"precision": "fp32"}, group=without)


def test_float8_speeds_up_what_it_converts_alone(run, node, llama_8b):
    """Linears of layers; experts are stacked parameters, which stay in bf16, and the head is in no layer."""
    experts = shape_of(presets.load("mixtral-8x7b"))
    assert experts is not None
    fields = {"sequence_length": 4096, "micro_batch_size": 4}

    def seconds(shape, sharding, world_size):
        rows = [TrainingConfig(precision=one, sharding=sharding, **fields) for one in ("bf16", "fp8")]
        return forecast(shape, node, world_size, Columns.of(rows)).step_s

    bf16, fp8 = seconds(experts, "fsdp", 8)
    attention = 2 * experts.hidden_size * (experts.query_size + experts.kv_size)
    active = attention + 3 * experts.hidden_size * experts.intermediate_size * experts.experts_per_token
    assert bf16 > fp8 > (1 - attention / active) * bf16
    more = {"vocab_size": 2 * llama_8b.vocab_size}
    more["num_parameters"] = llama_8b.num_parameters + 2 * llama_8b.embedding_parameters
    of_head = seconds(replace(llama_8b, **more), "ddp", 1) - seconds(llama_8b, "ddp", 1)
    assert of_head[1] == pytest.approx(of_head[0])


def test_context_parallel_ranks_share_attention_evenly(node, llama_8b):
    """Each has an early and a late piece, so as many keys as the mean query."""

    def attending(context):
        config = TrainingConfig(sequence_length=8192, context_parallel_size=context)
        fast, slow = (
            replace(CONSTANTS["cuda"], hidden_share=0.0, attention_efficiency=share) for share in (0.2, 0.1)
        )
        columns = Columns.of([config])
        return (
            forecast(llama_8b, node, 8, columns, slow).step_s[0]
            - forecast(llama_8b, node, 8, columns, fast).step_s[0]
        )

    alone = attending(1) / CONSTANTS["cuda"].shared_attention_efficiency
    for ranks in (2, 4, 8):
        assert attending(ranks) / alone == pytest.approx(1 / ranks)


def test_a_window_is_all_that_a_query_attends_to(node, llama_8b):
    windowed = replace(llama_8b, sliding_window=1024, windowed_layers=32)
    wide = replace(windowed, sliding_window=8192)
    fields = {"sequence_length": 8192, "attention": "flash"}
    columns = Columns.of([TrainingConfig(context_parallel_size=ranks, **fields) for ranks in (1, 4)])
    flat = replace(CONSTANTS["cuda"], hidden_share=0.0)
    slow = replace(flat, attention_efficiency=flat.attention_efficiency / 2)
    of_window, of_all = (
        forecast(shape, node, 8, columns, slow).step_s - forecast(shape, node, 8, columns, flat).step_s
        for shape in (windowed, wide)
    )
    # 1024 keys less what the first 1024 tokens lack, where all of them see half of 8192 in the mean.
    seen = 1024 * (1 - 1024 / (2 * 8192)) / (8192 / 2)
    assert of_window / of_all == pytest.approx([seen, seen])
    assert of_all[1] / of_all[0] == pytest.approx(1 / 4 / CONSTANTS["cuda"].shared_attention_efficiency)


def test_context_parallel_ranks_gather_keys_and_values_and_scatter_their_gradients(node, llama_8b):
    """Once in a forward and once in a backward; what is recomputed is gathered again."""
    ranks, layers, sequence = 4, 32, 8192
    pair = 2 * 2 * 1024 * sequence
    all_reduce = 2 * 4 * llama_8b.num_parameters
    for checkpointing, gathers in (("none", 2), ("full", 3)):
        columns = Columns.of(
            [
                TrainingConfig(
                    sequence_length=sequence,
                    context_parallel_size=ranks,
                    activation_checkpointing=checkpointing,
                )
            ]
        )
        fast, slow = (
            replace(CONSTANTS["cuda"], hidden_share=0.0, link_efficiency=share) for share in (1.0, 0.5)
        )
        more = (
            forecast(llama_8b, node, ranks, columns, slow).step_s[0]
            - forecast(llama_8b, node, ranks, columns, fast).step_s[0]
        )
        sent = (all_reduce + layers * gathers * pair) * (ranks - 1) / ranks
        assert more == pytest.approx(sent / 450e9)


def test_copies_and_collectives_share_the_only_wire_of_a_card(node, llama_8b):
    """Where devices have a link of their own, copies go beside it, behind the longer collectives."""
    columns = Columns.of([TrainingConfig(sharding="fsdp", offload="optimizer_and_parameters")])
    constants = replace(CONSTANTS["cuda"], hidden_share=0.0)
    one_wire, two = (
        replace(node, gpu=replace(node.gpu, link_gb_per_s=64, pcie_gb_per_s=rate)) for rate in (64, 64 - 1e-9)
    )
    more = (
        forecast(llama_8b, one_wire, 8, columns, constants).step_s[0]
        - forecast(llama_8b, two, 8, columns, constants).step_s[0]
    )
    # Parameters come for the forward and for the backward, and gradients go.
    copied = 3 * 4 * llama_8b.num_parameters / 8
    assert more == pytest.approx(copied / (constants.pcie_efficiency * 64e9), rel=1e-3)
