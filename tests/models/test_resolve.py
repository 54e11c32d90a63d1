"""MODEL in its three forms, and what is said when it is none of them."""

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import MappingProxyType

import pytest

from autotune.errors import BadInput
from autotune.models import process
from autotune.models.described import describe
from autotune.models.resolve import resolve
from trials.contract.messages import ModelSpec


def write_config(folder: Path, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    return file


def test_a_preset():
    model = resolve("Llama-3.1-8B")
    assert model.spec.name == "llama-3.1-8b"
    assert model.spec.hf_config["model_type"] == "llama"
    assert model.spec.hf_config["use_cache"] is False
    assert model.shape.num_parameters == 8_030_261_248
    assert model.notes == ()


def test_a_file_and_its_folder_are_the_same_model(tmp_path):
    file = write_config(tmp_path / "my.model-1", model_type="gpt2", n_layer=3, auto_map={"AutoModel": "x"})
    by_file, by_folder = resolve(str(file)), resolve(str(file.parent))
    assert by_file == by_folder
    assert by_file.spec.name == "my.model-1"
    assert by_file.shape.num_layers == 3
    assert "auto_map" in by_file.notes[0]


def test_the_current_folder_and_a_file_of_another_name(tmp_path, monkeypatch):
    write_config(tmp_path / "here", model_type="gpt2").rename(tmp_path / "here" / "small.json")
    monkeypatch.chdir(tmp_path / "here")
    assert resolve("small.json").spec.name == "small"
    write_config(tmp_path / "here", model_type="gpt2")
    assert resolve(".").spec.name == "here"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("llama-3.1-8", "did you mean 'llama-3.1-8b'"),
        ("meta-llama/Llama-3.1-8B", "no such file or folder"),
        ("meta-llama/Llama-3.1-8B", "did you mean 'llama-3.1-8b'"),
        ("https://huggingface.co/Qwen/Qwen3-8B", "did you mean 'qwen3-8b'"),
        ("missing/config.json", "no such file: 'missing/config.json'"),
        ("missing.json", "no such file: 'missing.json'"),
        ("someone/nonsense", "no such file or folder: 'someone/nonsense'; of a model on the Hub"),
        ("not a module:factory", "package.module:factory"),
        ("", "package.module:factory"),
        ("x" * 10_000, "package.module:factory"),
        ("nul\0byte", "package.module:factory"),
    ],
)
def test_what_is_none_of_them_names_the_nearest_and_the_forms(text, hint):
    with pytest.raises(BadInput) as caught:
        resolve(text)
    assert hint in str(caught.value)
    assert "?" not in str(caught.value)[:-1]
    assert len(str(caught.value)) < 400


def test_an_object_is_the_model_that_its_file_would_be(tmp_path):
    config = {"model_type": "gpt2", "n_layer": 3, "auto_map": {"AutoModel": "x"}, "id2label": {0: "a"}}
    by_file = resolve(str(write_config(tmp_path / "mine", **config)))
    by_object = resolve(MappingProxyType(config))
    assert by_object.spec.name == "gpt2"
    assert by_object.spec.digest == by_file.spec.digest
    assert (by_object.shape, by_object.notes) == (by_file.shape, by_file.notes)
    assert "auto_map" in config


@pytest.mark.parametrize("model", ["llama-20m", {"model_type": "gpt2"}])
def test_it_is_called_as_somebody_says(model):
    plain, named = resolve(model), resolve(model, "our team/v1.2")
    assert named.spec.name == "our team/v1.2"
    assert named.spec.digest == plain.spec.digest
    with pytest.raises(BadInput, match="cannot be a model's name"):
        resolve(model, "one\nrm -r")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": None}, 'the model\'s configuration needs a "model_type"'),
        ({"n_layer": 10**30}, "does not fit 64 bits"),
        ({"n_layer": 10**7}, "n_layer in the model's configuration must be"),
        ({"layer_norm_epsilon": float("nan")}, "NaN is not a number"),
        ({"activation_function": object()}, "holds what JSON cannot: a object"),
        ({("a", "b"): 1}, "holds what JSON cannot"),
        ({1: 2, "1": 3}, "stands in it twice"),
        ({"x": [0] * 400_000}, "larger than 1 MiB"),
    ],
)
def test_an_object_is_read_as_strictly_as_a_file(change, reason):
    with pytest.raises(BadInput, match=re.escape(reason)):
        resolve({"model_type": "gpt2", **change})


def test_an_object_that_holds_itself_is_refused():
    config: dict[str, object] = {"model_type": "gpt2"}
    config["rope_scaling"] = config
    with pytest.raises(BadInput, match="JSON cannot"):
        resolve(config)


def test_a_model_no_machine_holds_is_a_slip(tmp_path):
    file = write_config(tmp_path / "huge", model_type="llama", num_hidden_layers=10_000, hidden_size=2**20)
    with pytest.raises(BadInput, match="check the sizes"):
        resolve(str(file))


def test_importing_and_resolving_a_preset_is_quick_and_needs_no_torch():
    code = """
        import sys, time
        begun = time.process_time()
        from autotune.models.resolve import resolve
        resolve("llama-3.1-405b")
        assert not {"torch", "transformers", "ray", "optuna", "sqlalchemy"} & set(sys.modules)
        print(time.process_time() - begun)
    """
    runs = [
        float(
            subprocess.run(
                [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, check=True
            ).stdout
        )
        for _ in range(3)
    ]
    assert min(runs) < 0.3


def test_other_families_are_built_to_be_described(tmp_path):
    file = write_config(
        tmp_path / "opt", model_type="opt", num_hidden_layers=3, hidden_size=64, word_embed_proj_dim=64,
        ffn_dim=96, num_attention_heads=4, vocab_size=100, max_position_embeddings=50,
    )  # fmt: skip
    shape = resolve(str(file)).shape
    assert (shape.num_layers, shape.hidden_size, shape.intermediate_size) == (3, 64, 96)
    assert (shape.num_heads, shape.head_dim, shape.vocab_size, shape.max_positions) == (4, 16, 100, 50)
    assert (
        shape.num_layers * shape.layer_parameters + 100 * 64 + shape.other_parameters == shape.num_parameters
    )


def test_a_model_type_that_transformers_does_not_know(tmp_path):
    with pytest.raises(BadInput, match=r"no model_type 'lama'; did you mean 'llama'\?"):
        resolve(str(write_config(tmp_path / "x", model_type="lama")))


FACTORY = """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(48, 6)
            self.up, self.gate, self.down = nn.Linear(48, 96), nn.Linear(48, 96), nn.Linear(96, 48)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(200, 48), nn.Embedding(32, 48)
            self.blocks = nn.ModuleList(Block() for _ in range(5))
            self.head = nn.Linear(48, 200, bias=False)
            self.head.weight = self.tokens.weight

    def build():
        return Model()

    build.version = 7
"""


def test_a_factory_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "models.py").write_text(textwrap.dedent(FACTORY))
    monkeypatch.chdir(tmp_path)
    model = resolve("package.models:build")
    assert model.spec.factory_path == str(tmp_path)
    assert model.spec.factory_version == "7"
    shape = model.shape
    assert (shape.model_type, shape.num_layers, shape.num_heads, shape.head_dim) == ("factory", 5, 6, 8)
    assert (shape.intermediate_size, shape.gated_mlp, shape.max_positions) == (96, True, 32)
    assert shape.tied_embeddings
    assert shape.num_parameters == 200 * 48 + 32 * 48 + 5 * shape.layer_parameters


def spec_of(tmp_path: Path, source: str) -> ModelSpec:
    (tmp_path / "mine.py").write_text(textwrap.dedent(source))
    return ModelSpec(name="mine:build", factory="mine:build", factory_path=str(tmp_path))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import os; os._exit(3)", "building mine:build ended with exit code 3"),
        ("import sys; sys.exit('no thanks')", "no thanks"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
    ],
)
def test_a_build_that_takes_its_process_down_is_a_sentence(tmp_path, source, reason):
    with pytest.raises(BadInput, match=reason):
        describe(spec_of(tmp_path, source))


def test_a_build_that_hangs_is_ended_with_all_it_started(tmp_path):
    spec = spec_of(
        tmp_path,
        """
        import pathlib, subprocess, time
        child = subprocess.Popen(["sleep", "600"])
        pathlib.Path(__file__).with_name("pid").write_text(str(child.pid))
        time.sleep(600)
        """,
    )
    for deadline_s in (4, 8, 16, 32):  # long enough, on a busy machine, for the build to have begun
        with pytest.raises(BadInput, match=f"took more than {deadline_s} s"):
            describe(spec, deadline_s)
        if (tmp_path / "pid").exists():
            break
    status = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    for _ in range(50):
        if not status.exists() or status.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child of the build lives on")


def test_a_build_sees_no_credentials(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("AUTOTUNE_STORAGE", "postgresql://secret")
    spec = spec_of(tmp_path, "import os\ndef build(): raise ValueError(sorted(os.environ))")
    with pytest.raises(BadInput) as caught:
        describe(spec)
    assert "HF_HUB_OFFLINE" in str(caught.value)
    assert "TOKEN" not in str(caught.value)
    assert "AUTOTUNE" not in str(caught.value)


def test_trials_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = process._environment()
    found = subprocess.run(
        [sys.executable, "-S", "-P", "-c", "import trials; print(trials.__file__)"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(found.stdout.strip()).is_file()
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(Path(found.stdout.strip()).parents[1])
