"""What a request stands for: the parts that nobody said."""

import json
from pathlib import Path

import pytest

from autotune.errors import BadInput
from autotune.request import TuneRequest, specify
from autotune.search.problem import work_out


@pytest.mark.parametrize("space", [None, "fsdp", "zero"])
def test_a_length_that_nobody_asked_for_gives_way_to_the_models_positions(space: str | None) -> None:
    spec = specify(TuneRequest(model="gpt2", gpus="H100:2", space=space))
    assert spec.space["dimensions"]["sequence_length"] == [1024]
    (note,) = spec.notes
    assert note.startswith("sequence_length is at most 1024, the positions of the model, not 2048")
    assert set(work_out(spec).candidates.columns.distinct("sequence_length")) == {1024}


def test_so_does_the_default_that_a_file_leaves_open(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "gpt2", "n_positions": 64}')
    file = tmp_path / "mine.yaml"
    file.write_text("dimensions: {micro_batch_size: [1, 2]}")
    spec = specify(TuneRequest(model=str(config), gpus="H100:1", space=str(file)))
    assert spec.space["dimensions"]["sequence_length"] == [64]


def test_a_length_that_fits_stays_and_nothing_is_noted() -> None:
    assert specify(TuneRequest(model="llama-20m", gpus="H100:1")).notes == ()
    spec = specify(TuneRequest(model="gpt2", gpus="cpu:1"))
    assert spec.space["dimensions"]["sequence_length"] == [256]


def test_a_length_that_was_asked_for_is_an_error_that_names_the_longest(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("dimensions: {sequence_length: 2048}")
    for asked in ({"settings": {"sequence_length": (2048,)}}, {"space": str(file)}):
        with pytest.raises(BadInput, match="--set sequence_length=1024"):
            work_out(specify(TuneRequest(model="gpt2", gpus="H100:1", **asked)))


def test_gpu_hours_are_no_bound_on_cpus():
    with pytest.raises(BadInput, match="use --minutes"):
        specify(TuneRequest("llama-20m", gpus="cpu:2", gpu_hours=1.0))
    assert specify(TuneRequest("llama-20m", gpus="H100:1", gpu_hours=1.0)).gpu_hours == 1.0


MODEL = {"model_type": "gpt2", "n_positions": 64, "n_layer": 2, "n_embd": 64, "n_head": 2}
INVENTORY = {"nodes": [{"count": 2, "gpus_per_node": 8, "gpu": "H100"}]}
SPACE = {"dimensions": {"micro_batch_size": {"min": 1, "max": 2}, "sharding": "fsdp"}}


def test_objects_do_as_well_as_files(tmp_path: Path) -> None:
    files = {}
    for name, content in (("model", MODEL), ("gpus", INVENTORY), ("space", SPACE)):
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(json.dumps(content))
    by_files = specify(TuneRequest(**{name: str(file) for name, file in files.items()}))
    by_objects = specify(TuneRequest(model=MODEL, gpus=INVENTORY, space=SPACE, model_name="mine"))
    assert by_objects.model.digest == by_files.model.digest
    assert (by_objects.model.name, by_objects.gpus) == ("mine", "2 × 8 × H100-80GB")
    assert by_objects.world_size == by_files.world_size == 16
    assert by_objects.space == {**by_files.space, "name": "custom"}
    assert "as in the space custom" in by_objects.notes[0]
    assert len(work_out(by_objects).candidates) == len(work_out(by_files).candidates)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "the space: dimensions: field required"),
        (
            {"dimensions": {"precison": "bf16"}},
            "the space: dimensions: unknown field 'precison'; did you mean",
        ),
        ({"dimensions": {}, "sizes": 1}, "the space: unknown field 'sizes'"),
        ("", "no space and no file is called ''"),
    ],
)
def test_a_space_that_cannot_be_is_named(space: object, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        specify(TuneRequest(model="llama-20m", gpus="H100:8", space=space))


def test_an_object_may_be_called_as_a_shipped_space_is() -> None:
    space = {"name": "fsdp", "dimensions": {"sequence_length": 2048}}
    with pytest.raises(BadInput, match="--set sequence_length=1024"):
        work_out(specify(TuneRequest(model="gpt2", gpus="H100:1", space=space)))


@pytest.mark.parametrize("ceiling", ["22", " 1048575 "])
def test_a_ceiling_whose_unit_was_forgotten_is_refused(ceiling: str) -> None:
    with pytest.raises(BadInput, match=r"so many bytes; with its unit it is \d+GiB"):
        specify(TuneRequest(model="gpt2", gpus="H100:1", ceiling=ceiling))
    assert specify(TuneRequest(model="gpt2", gpus="H100:1", ceiling="1048576")).ceiling_bytes == 1 << 20
