"""Plans: forecasts ranked, and honest where nothing fits."""

import json
import re
import subprocess
import sys

import pytest

from autotune.errors import BadInput, NothingFits
from autotune.planner import explain, plan, require_something, save_plot
from autotune.report.plan import Plan
from autotune.report.plots import pareto_front
from autotune.request import PlanRequest
from search_spaces.space import SearchSpace
from trials.contract.messages import StepPhase

ONE_4090 = {"model": "llama-3.1-8b", "gpus": "4090:1", "ceiling": "22GiB"}


def ask(**fields: object) -> PlanRequest:
    return PlanRequest(**{"model": "llama-3.1-8b", "gpus": "H100:8", **fields})


def test_what_fits_is_ranked_by_speed():
    found = plan(ask(space="fsdp", top=50))
    speeds = [row.tokens_per_second for row in found.ranked]
    assert speeds == sorted(speeds, reverse=True)
    assert 0 < len(found.ranked) <= found.fitting <= found.candidates
    usable = int(found.ceiling_bytes * 0.95)
    for row in found.ranked:
        assert row.reserved_bytes + row.memory["fixed"] <= usable
        assert sum(row.memory.values()) == row.peak_bytes
        assert row.fits
        assert row.tokens_per_second == pytest.approx(
            row.config.tokens_per_step(row.world_size) / row.step_s, rel=1e-6
        )
    assert found.nearest is None
    assert found.advice == ()
    require_something(found)


def test_candidates_and_rejections_add_up_to_the_space():
    found = plan(ask(space="three_d", gpus="2x8xA100-80GB"))
    space = SearchSpace.load("three_d")
    total = 1
    for values in space.dimensions.values():
        total *= len(values)
    illegal = sum(r.count for r in found.rejected if r.code != "memory")
    too_large = sum(r.count for r in found.rejected if r.code == "memory")
    assert found.candidates + illegal == total
    assert found.fitting + too_large == found.candidates


def test_what_cannot_be_trained_is_not_ranked():
    """GPT-2 has no nn.Linear to quantise."""
    found = plan(PlanRequest(model="gpt2-xl", gpus="T4", space="lora", top=1000))
    assert {row.config.base_weights for row in found.ranked} == {"native"}
    assert any("no nn.Linear" in rejected.reason for rejected in found.rejected)


def test_one_stacked_expert_is_not_quantised(tmp_path):
    config = {"model_type": "mixtral", "num_local_experts": 1, "num_experts_per_tok": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = plan(PlanRequest(model=str(tmp_path), gpus="H100:1", space="lora", top=1000))
    assert {row.config.base_weights for row in found.ranked} == {"native"}


def test_fewer_bytes_lead_where_one_wire_carries_them_all():
    """PCIe brings the offloaded base from the CPU, and the other card's part of it."""
    found = plan(ask(model="llama-3.1-70b", gpus="4090:2", space="lora"))
    assert found.ranked[0].config.base_weights == "int4"


def test_what_no_probe_runs_yet_is_marked():
    """Where the model stands in the way as well as where an engine does."""
    pinned = {"tensor_parallel_size": 2, "pipeline_parallel_size": 1, "sharding": "fsdp", "loss": "eager"}
    settings = {field: (value,) for field, value in pinned.items()}
    request = ask(model="mixtral-8x7b", gpus="8xH200", space="three_d", settings=settings)
    expected = "no engine probes tensor parallelism of experts yet"
    assert plan(request).ranked[0].unprobed == expected
    assert explain(request, {}).unprobed == expected


def test_a_model_too_large_to_train_in_full_is_adapted():
    found = plan(PlanRequest(**ONE_4090))
    best = found.ranked[0]
    assert found.space == "lora"
    assert (best.config.adaptation, best.config.base_weights) == ("lora", "int4")
    assert best.unprobed is None
    assert "nothing of the space single_gpu fits" in found.notes[0]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"model": "llama-3.1-70b", "gpus": "4090:2", "space": "lora", "settings": {"offload": ("none",)}},
            "offload=optimizer_and_parameters",
        ),
        ({"model": "llama-3.1-405b", "gpus": "H100:8", "space": "fsdp"}, "such GPUs would do"),
        ({"space": "fsdp", "ceiling": "3GiB"}, "more per GPU would do"),
    ],
)
def test_nothing_fits_says_what_would(fields, words):
    found = plan(ask(**fields))
    assert found.ranked == ()
    assert found.fitting == 0
    assert found.nearest is not None
    assert not found.nearest.fits
    with pytest.raises(NothingFits, match=words):
        require_something(found)


def test_the_gpus_that_would_do_do():
    found = plan(ask(model="llama-3.1-405b", gpus="H100:8", space="fsdp"))
    count = next(int(m[1].replace(",", "")) for a in found.advice if (m := re.match(r"([\d,]+) such", a)))
    assert plan(ask(model="llama-3.1-405b", gpus=f"{count // 8}x8xH100", space="fsdp")).fitting > 0
    assert plan(ask(model="llama-3.1-405b", gpus=f"{count // 16}x8xH100", space="fsdp")).fitting == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"settings": {"tensor_parallel_size": (3,)}, "space": "fsdp"}, "tensor_parallel_size 3"),
        ({"space": "single_gpu", "settings": {"sharding": ("fsdp",)}}, "splits nothing"),
        ({"gpus": "H1000:8"}, "H100"),
        ({"model": "lama-3.1-8b"}, "llama-3.1-8b"),
        ({"ceiling": "200GiB"}, "more than the"),
    ],
)
def test_what_cannot_be_is_named(fields, words):
    with pytest.raises(BadInput, match=re.escape(words)):
        plan(ask(**fields))


def test_mixed_groups_are_planned_one_by_one(tmp_path):
    inventory = tmp_path / "gpus.yaml"
    inventory.write_text(
        "nodes:\n  - {gpu: H100-80GB, gpus_per_node: 8}\n  - {gpu: A100-80GB, count: 2, gpus_per_node: 8}\n"
    )
    found = plan(ask(gpus=str(inventory), space="fsdp", top=400))
    assert {row.gpus for row in found.ranked} == {"8 × H100-80GB", "16 × A100-80GB"}


def test_objects_do_as_well_as_words():
    inventory = {"nodes": [{"gpus_per_node": 8, "gpu": "H100"}]}
    space = SearchSpace.load("fsdp").model_dump(mode="json")
    words, objects = plan(ask(space="fsdp")), plan(ask(gpus=inventory, space=space, model_name="ours"))
    assert objects == words.model_copy(update={"model": "ours"})
    assert plan(ask(space={**space, "name": "mine"})).space == "mine"


def mixed(tmp_path, **of_first: object) -> str:
    """Four small GPUs beside one large one."""
    file = tmp_path / "mixed.json"
    nodes = [{"gpus_per_node": 4, "gpu": "A10", **of_first}, {"gpus_per_node": 1, "gpu": "H100-80GB"}]
    file.write_text(json.dumps({"nodes": nodes}))
    return str(file)


def test_a_group_without_anything_legal_leaves_the_others_their_plan(tmp_path):
    found = plan(ask(gpus=mixed(tmp_path), space="fsdp"))
    assert {row.gpus for row in found.ranked or (found.nearest,)} == {"4 × A10"}
    assert any("not planned on 1 × H100-80GB: no configuration" in note for note in found.notes)


def test_each_group_has_a_space_and_a_ceiling_of_its_own(tmp_path):
    found = plan(ask(gpus=mixed(tmp_path), top=1000))
    ceilings = {row.gpus: row.ceiling_bytes for row in found.ranked}
    assert set(ceilings) == {"4 × A10", "1 × H100-80GB"}
    assert ceilings["4 × A10"] < ceilings["1 × H100-80GB"] == found.ceiling_bytes
    assert {row.config.adaptation for row in found.ranked} == {"full"}
    for row in found.ranked:
        assert row.device_bytes <= row.ceiling_bytes * 0.95


def test_a_ceiling_above_one_group_leaves_that_out(tmp_path):
    found = plan(ask(gpus=mixed(tmp_path), ceiling="60GiB"))
    assert found.ceiling_bytes == 60 << 30
    assert any("not planned on 4 × A10: --ceiling 60GiB is more than" in note for note in found.notes)
    with pytest.raises(BadInput, match="--ceiling 600GiB is more than"):
        plan(ask(gpus=mixed(tmp_path), ceiling="600GiB"))


def test_an_explanation_is_of_the_group_with_the_best_row(tmp_path):
    request = ask(gpus=mixed(tmp_path))
    best = plan(request).ranked[0]
    explained = explain(request, {"micro_batch_size": 1})
    assert (explained.gpus, explained.ceiling_bytes) == (best.gpus, best.ceiling_bytes)


def test_what_is_offloaded_needs_room_in_the_nodes_memory(tmp_path):
    def planned(host_memory: str) -> Plan:
        file = tmp_path / "node.json"
        nodes = [{"gpus_per_node": 4, "gpu": "A100-40GB", "host_memory": host_memory}]
        file.write_text(json.dumps({"nodes": nodes}))
        return plan(ask(gpus=str(file), settings={"offload": ["optimizer"]}, space="zero"))

    ample, scarce = planned("512GiB"), planned("64GiB")
    # Of every parameter an fp32 master weight, two moments and a gradient.
    assert ample.ranked[0].host_bytes == pytest.approx(8.03e9 * 16, rel=0.01)
    assert scarce.ranked == ()
    assert "CPU memory" in next(r.reason for r in scarce.rejected if r.code == "host_memory")
    with pytest.raises(NothingFits, match="more CPU memory per node would do"):
        require_something(scarce)


def test_absurd_sizes_fit_nowhere():
    sizes = {"micro_batch_size": [1 << 24], "sequence_length": [1 << 24]}
    found = plan(ask(gpus="H100:1", settings=sizes))
    assert found.fitting == 0
    assert found.nearest.device_bytes > 1 << 50
    assert sum(found.nearest.memory.values()) == found.nearest.peak_bytes


def test_an_explanation_adds_up():
    found = explain(ask(space="fsdp"), {"micro_batch_size": 3, "activation_checkpointing": "full"})
    assert (found.config.micro_batch_size, found.config.activation_checkpointing) == (3, "full")
    assert set(found.phases) == set(StepPhase)
    assert max(sum(parts.values()) for parts in found.phases.values()) == found.peak_bytes
    assert sum(found.seconds.values()) == pytest.approx(found.step_s)


def test_an_explanation_of_what_is_illegal_is_refused():
    with pytest.raises(BadInput, match="does not divide"):
        explain(ask(space="fsdp"), {"tensor_parallel_size": 3})


def test_a_row_can_be_traced(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "model_type": "llama", "vocab_size": 5000, "hidden_size": 256, "intermediate_size": 704,
                "num_hidden_layers": 8, "num_attention_heads": 8,
            }
        )
    )  # fmt: skip
    found = plan(ask(model=str(config), gpus="4090:1", trace=1, top=2))
    traced = found.ranked[0].traced_bytes
    assert traced == pytest.approx(found.ranked[0].peak_bytes - found.ranked[0].memory["fixed"], rel=0.02)
    assert found.ranked[1].traced_bytes is None


def test_a_plot_is_one_file_that_stands_alone(tmp_path):
    found = plan(ask(space="fsdp"))
    save_plot(found, tmp_path / "plan.html")
    page = (tmp_path / "plan.html").read_text()
    assert "Pareto front" in page
    assert "activations" in page
    assert "<script src" not in page
    with pytest.raises(BadInput, match="cannot be written"):
        save_plot(found, tmp_path / "no" / "plan.html")


def test_the_front_is_what_nothing_beats():
    rows = plan(ask(space="fsdp", top=100)).ranked
    front = pareto_front(rows)
    for row in rows:
        held = row.reserved_bytes + row.memory["fixed"]
        assert any(
            one.tokens_per_second >= row.tokens_per_second
            and one.reserved_bytes + one.memory["fixed"] <= held
            for one in front
        )


def test_planning_never_imports_torch():
    code = (
        "import sys\n"
        "from autotune.planner import plan\n"
        "from autotune.request import PlanRequest\n"
        "plan(PlanRequest('llama-3.1-405b', gpus='64x8xH100-80GB', space='three_d'))\n"
        "assert not {'torch', 'transformers', 'ray', 'optuna', 'sqlalchemy', 'plotly'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
