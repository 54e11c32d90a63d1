import re

import pytest
from problems import GIB, MIB, make_problem

from autotune.errors import BadInput, NothingFits
from autotune.search.candidates import DOUBT
from autotune.search.ceilings import FORECAST_MARGIN
from trials.contract.config import TrainingConfig


def test_candidates_and_rejections_add_up_to_the_space(problem):
    candidates = problem.candidates
    assert len(candidates) + sum(r.count for r in candidates.rejected) == candidates.total


def test_index_is_the_inverse_of_config(problem):
    candidates = problem.candidates
    for index in range(0, len(candidates), 37):
        assert candidates.index(candidates.config(index)) == index
    assert candidates.index(TrainingConfig(sequence_length=7)) is None


def test_what_is_far_beyond_the_ceiling_is_dropped_with_its_reason():
    all_fit = make_problem(ceiling_bytes=11 * GIB).candidates
    some_fit = make_problem(ceiling_bytes=1 * GIB).candidates
    assert len(some_fit) < len(all_fit)
    assert some_fit.forecast.device_bytes.max() <= some_fit.usable_bytes * (1 + DOUBT)
    dropped = next(r for r in some_fit.rejected if r.code == "memory")
    assert dropped.count == len(all_fit) - len(some_fit)


def test_a_ceiling_below_everything_names_the_smallest_that_would_do():
    with pytest.raises(NothingFits) as raised:
        make_problem(ceiling_bytes=64 * MIB)
    needed = int(re.search(r"(\d+) bytes", str(raised.value))[1])
    forecast = make_problem(ceiling_bytes=needed).candidates.forecast.device_bytes.min()
    assert forecast * (1 + FORECAST_MARGIN) <= needed * 0.95
    assert f"{needed // MIB}MiB" in str(raised.value)
    assert needed % MIB == 0
    with pytest.raises(NothingFits):
        make_problem(ceiling_bytes=int(forecast / 0.95 / (1 + DOUBT) * 0.99))


def test_what_is_offloaded_must_have_room(tmp_path):
    file = tmp_path / "node.json"
    file.write_text('{"nodes": [{"gpu": "A100-80GB", "gpus_per_node": 2, "host_memory": "64MiB"}]}')
    settings = {"sharding": ["zero2"], "offload": ["none", "optimizer"], "precision": ["bf16"]}
    candidates = make_problem(gpus=str(file), settings=settings, ceiling_bytes=60 * GIB).candidates
    assert {config.offload for config in candidates.columns.configs()} == {"none"}
    dropped = next(r for r in candidates.rejected if r.code == "host_memory")
    assert dropped.count > 0
    with pytest.raises(NothingFits, match="that a node's CPU memory has for it"):
        make_problem(gpus=str(file), settings={**settings, "offload": ["optimizer"]}, ceiling_bytes=60 * GIB)


def test_a_ceiling_that_no_device_has_is_no_advice():
    with pytest.raises(NothingFits) as raised:
        make_problem(gpus="H100:1", settings={"micro_batch_size": [2**20]}, ceiling_bytes=GIB)
    assert "raise --ceiling" not in str(raised.value)


def test_a_space_without_a_legal_configuration_says_why_and_what_to_change():
    words = "DeepSpeed refuses fp16 on CPU.* allow other values of .*precision.* with --set"
    with pytest.raises(BadInput, match=words):
        make_problem(settings={"precision": ["fp16"], "sharding": ["zero1"]})


def test_of_several_reasons_the_one_about_what_the_user_pinned_comes_first():
    settings = {"sharding": ["ddp", "fsdp", "hsdp"], "attention": ["flash"]}
    first = {}
    for pinned in ("sharding", "attention"):
        with pytest.raises(BadInput) as raised:
            make_problem(settings=settings, pinned={pinned})
        first[pinned] = str(raised.value).partition("can run here: ")[2]
    assert first["sharding"].startswith("hsdp")
    assert "flash" in first["attention"].partition(";")[0]


def test_a_baseline_that_cannot_run_is_bad_input():
    with pytest.raises(BadInput, match="the baseline cannot run here: DeepSpeed refuses fp16"):
        make_problem(baseline={"sharding": "zero2", "precision": "fp16"})
