"""`import autotune`: the command line as functions."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import autotune
from autotune.errors import BadInput, NoSuchJob, NothingMeasured

TINY = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("AUTOTUNE_STORAGE", "AUTOTUNE_RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_importing_it_imports_next_to_nothing():
    code = (
        "import sys, autotune\n"
        "autotune.errors.BadInput, autotune.plan\n"
        "heavy = {'pydantic', 'numpy', 'optuna', 'sqlalchemy', 'torch', 'ray', 'httpx2', 'typer', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_is_there_and_none_is_shadowed_by_a_module():
    assert set(autotune.__all__) <= set(dir(autotune))
    for name in autotune.__all__:
        assert getattr(autotune, name) is not None
    modules = {module.name for module in pkgutil.iter_modules(autotune.__path__)}
    assert modules & set(autotune.__all__) == {"errors"}
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        autotune.nothing  # noqa: B018


def test_plan_takes_what_the_command_line_takes():
    found = autotune.plan("llama-3.1-8b", "4090:1", ceiling="22GiB", headroom="5%", top=3)
    assert isinstance(found, autotune.Plan)
    assert len(found.ranked) == 3
    assert found.ranked[0].config.adaptation == "lora"
    assert autotune.plan("llama-3.1-8b", "4090:1", ceiling=22 << 30, top=3) == found


def test_plan_takes_objects(home: Path):
    config = home / "tiny.json"
    config.write_text(json.dumps(TINY))
    inventory = {"nodes": [{"gpus_per_node": 2, "gpu": "H100"}]}
    space = {
        "dimensions": {"micro_batch_size": [1, 2, 3], "sequence_length": 64, "sharding": ["ddp", "fsdp"]}
    }
    found = autotune.plan(
        TINY, inventory, space=space, set={"micro_batch_size": range(1, 3), "sharding": "ddp"}, model_name="t"
    )
    assert (found.model, found.space, found.candidates) == ("t", "custom", 2)
    assert {row.config.micro_batch_size for row in found.ranked} == {1, 2}
    again = autotune.plan(
        config, "H100:2", space=space, set={"micro_batch_size": {"max": 2}, "sharding": ["ddp"]}
    )
    assert again.ranked == found.ranked


def test_where_nothing_fits_the_plan_says_what_would():
    found = autotune.plan("llama-3.1-405b", "H100:8", space="fsdp")
    assert found.ranked == ()
    assert found.nearest is not None
    assert found.advice


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "lama-3.1-8b"}, "did you mean 'llama-3.1-8b'"),
        ({"model": {"layers": 3}}, 'needs a "model_type"'),
        ({"set": {"precison": "bf16"}}, "set: unknown field 'precison'"),
        ({"set": {"precision": "bf17"}}, "set: "),
        ({"set": {"micro_batch_size": []}}, "at least one value is needed"),
        ({"headroom": 1.5}, "headroom '1.5' is not a share"),
        ({"headroom": float("nan")}, "headroom 'nan' is not a share"),
        ({"ceiling": -1}, "is not a size"),
        ({"top": 0}, "top must be a whole number from 1"),
        ({"global_batch_size": 2.5}, "global_batch_size must be a whole number"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, object], words: str):
    with pytest.raises(BadInput, match=words):
        autotune.plan(**{"model": "llama-3.1-8b", "gpus": "H100:8", **changes})


def test_what_is_refused_leaves_no_database(home: Path):
    with pytest.raises(BadInput, match="baseline: unknown field"):
        autotune.tune(TINY, "cpu:1", baseline={"micro_batch": 2})
    with pytest.raises(BadInput, match="name: "):
        autotune.tune(TINY, "cpu:1", name="no name", executor="local")
    with pytest.raises(NoSuchJob):
        autotune.answer("nothing")
    assert list(home.iterdir()) == []


def test_a_job_from_its_search_to_its_files(home: Path):
    storage, events = f"sqlite:///{home}/jobs.db", []
    found = autotune.tune(
        TINY,
        "cpu:1",
        name="first",
        ceiling="1500MiB",
        set={
            "sharding": "ddp",
            "precision": "fp32",
            "sequence_length": 16,
            "activation_checkpointing": "none",
            "micro_batch_size": (1, 2),
        },
        baseline={"micro_batch_size": 1},
        trials=2,
        executor="local",
        storage=storage,
        on_event=events.append,
    )
    assert isinstance(found, autotune.Answer)
    assert found.recommendation is not None
    assert found.recommendation.evidence == "confirmed"
    assert found.recommendation.baseline.config.micro_batch_size == 1
    assert isinstance(events[0], autotune.JobStarted)
    assert {event.trial for event in events if isinstance(event, autotune.ProbeEnded)} == {0, 1}

    assert autotune.answer("first", storage=storage) == found
    assert autotune.resume("first", storage=storage) == found
    assert [row.number for row in autotune.trials("first", storage=storage)] == [0, 1]
    assert autotune.explain("first", storage=storage).config == found.recommendation.config
    written = autotune.export_job("first", "torchrun", "run", storage=storage)
    assert {path.name for path in written} == {path.name for path in (home / "run").iterdir()}
    assert not (home / "autotune.db").exists()

    hopeless = {"micro_batch_size": 64, "sequence_length": 64}
    with pytest.raises((NothingMeasured, autotune.errors.NothingFits)):
        autotune.tune(TINY, "cpu:1", ceiling="100MiB", set=hopeless, executor="local", storage=storage)
