import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import BadInput, NotFound
from autotune.execution.environment import probe_environment
from autotune.export import FORMATS, Target, write
from autotune.export.script import environment
from trials.contract.config import TrainingConfig
from trials.contract.constants import EngineConstants
from trials.contract.environment import threads_per_rank
from trials.contract.messages import DeviceKind

MakeTarget = Callable[..., Target]


class TestWrite:
    def test_paths_and_modes(self, make_target: MakeTarget, tmp_path: Path) -> None:
        folder = tmp_path / "a" / "b"
        written = write("deepspeed", make_target(sharding="zero2"), folder)
        assert {path.name for path in written} == {"ds_config.json", "launch.sh"}
        assert sorted(folder.iterdir()) == sorted(written)  # nothing else is left behind
        assert os.access(folder / "launch.sh", os.X_OK)
        assert not os.access(folder / "ds_config.json", os.X_OK)

    def test_replaces_its_own_files_and_leaves_others(self, make_target: MakeTarget, tmp_path: Path) -> None:
        (tmp_path / "train.py").write_text("mine")
        write("torchrun", make_target(micro_batch_size=1), tmp_path)
        write("torchrun", make_target(micro_batch_size=5), tmp_path)
        assert json.loads((tmp_path / "training.json").read_text())["config"]["micro_batch_size"] == 5
        assert (tmp_path / "train.py").read_text() == "mine"

    def test_all_or_nothing(self, make_target: MakeTarget, tmp_path: Path) -> None:
        (tmp_path / "launch.sh").mkdir()
        with pytest.raises(BadInput, match=r"launch\.sh is a folder there; choose another folder"):
            write("torchrun", make_target(), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["launch.sh"]

    def test_nothing_is_made_for_what_the_tool_cannot_run(
        self, make_target: MakeTarget, tmp_path: Path
    ) -> None:
        with pytest.raises(BadInput):
            write("deepspeed", make_target(sharding="fsdp"), tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_a_file_in_the_way(self, make_target: MakeTarget, tmp_path: Path) -> None:
        (tmp_path / "taken").touch()
        with pytest.raises(BadInput, match=r"cannot export to .*taken.*choose another folder"):
            write("torchrun", make_target(), tmp_path / "taken" / "below")

    def test_unknown_format(self, make_target: MakeTarget, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="'deepsped'; did you mean 'deepspeed'"):
            write("deepsped", make_target(), tmp_path)
        with pytest.raises(NotFound, match="known are deepspeed, accelerate, torchrun"):
            write("xxx", make_target(), tmp_path)


@pytest.mark.parametrize(
    ("format", "target", "reason"),
    [
        ("deepspeed", {"sharding": "fsdp"}, "DeepSpeed has no FSDP; use --to accelerate or --to torchrun"),
        ("deepspeed", {"sharding": "zero3", "precision": "fp8"}, "float8"),
        ("deepspeed", {"sharding": "zero1", "tensor_parallel_size": 2}, "--to torchrun"),
        ("accelerate", {"pipeline_parallel_size": 2, "gradient_accumulation_steps": 2}, "--to torchrun"),
        ("accelerate", {"device": "cpu", "sharding": "fsdp"}, "GPUs only"),
        ("accelerate", {"device": "cpu", "sharding": "zero2"}, "takes every rank for the only one"),
        ("accelerate", {"device": "cpu", "precision": "fp16"}, "leaves fp16 out"),
    ],
)
def test_refusals(format: str, target: dict[str, object], reason: str, make_target: MakeTarget) -> None:
    with pytest.raises(BadInput, match=reason):
        FORMATS[format](make_target(**target))


def test_a_target_whose_numbers_disagree(make_target: MakeTarget) -> None:
    target = make_target()
    with pytest.raises(ValueError, match="1 nodes with 2 ranks each are not 3 ranks"):
        Target(**{**vars(target), "world_size": 3})


def test_training_json(make_target: MakeTarget) -> None:
    target = make_target(
        num_nodes=2, gpus_per_node=4, sharding="hsdp", micro_batch_size=3, gradient_accumulation_steps=2
    )
    facts = json.loads(FORMATS["torchrun"](target)["training.json"])
    assert TrainingConfig.parse(facts["config"]) == target.config
    assert EngineConstants.parse(facts["constants"]) == target.constants
    assert facts["global_batch_size"] == 3 * 2 * 8
    assert facts["environment"]["PYTORCH_CUDA_ALLOC_CONF"] == target.constants.cuda_allocator


@pytest.mark.parametrize(("schedule", "named"), [("1f1b", "Schedule1F1B"), ("gpipe", "ScheduleGPipe")])
def test_a_pipeline_says_its_schedule(schedule: str, named: str, make_target: MakeTarget) -> None:
    fields = {"gradient_accumulation_steps": 4, "pipeline_schedule": schedule}
    piped, plain = (
        FORMATS["torchrun"](make_target(pipeline_parallel_size=stages, **fields))["launch.sh"]
        for stages in (2, 1)
    )
    assert f"torch.distributed.pipelining.{named}" in piped
    assert "torch.distributed.pipelining" not in plain


@pytest.mark.parametrize(
    ("format", "sharding"),
    [("torchrun", "ddp"), ("torchrun", "fsdp"), ("accelerate", "ddp"), ("accelerate", "fsdp")],
)
def test_8_bit_states_are_those_that_were_measured(
    format: str, sharding: str, make_target: MakeTarget
) -> None:
    """bitsandbytes' do not run on the shards of FSDP2."""
    words = FORMATS[format](make_target(optimizer="adamw_8bit", sharding=sharding))["launch.sh"]
    assert "torchao.optim.AdamW8bit" in words
    assert "bitsandbytes" not in words


def test_environment_is_the_probes(make_target: MakeTarget) -> None:
    devices: tuple[DeviceKind, ...] = ("cpu", "cuda")
    for device in devices:
        variables = environment(make_target(device))
        assert variables
        assert variables.items() <= probe_environment({}, device).items()


@pytest.mark.parametrize(("cores", "ranks"), [(1, 1), (96, 8), (100, 8), (2, 4)])
def test_threads_are_the_probes(
    cores: int, ranks: int, make_target: MakeTarget, launched: Callable[..., list[str]], tmp_path: Path
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {
        "nproc": f'[ -z "${{OMP_NUM_THREADS:-}}" ] && echo {cores}',
        "torchrun": 'printf "%s\\0" "$OMP_NUM_THREADS" "$MKL_NUM_THREADS" "$OPENBLAS_NUM_THREADS"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    write("torchrun", make_target("cuda", 1, ranks), tmp_path / "export")
    threads = launched(
        tmp_path / "export", PATH=f"{programs}{os.pathsep}{os.environ['PATH']}", OMP_NUM_THREADS="7"
    )
    assert threads == [str(threads_per_rank("cuda", ranks, cores))] * 3


class TestLaunchScript:
    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("num_nodes", [1, 2])
    def test_explains_itself_without_arguments(
        self, format: str, num_nodes: int, make_target: MakeTarget, tmp_path: Path
    ) -> None:
        target = make_target(
            num_nodes=num_nodes,
            sharding="zero3",
            micro_batch_size=3,
            gradient_accumulation_steps=4,
            sequence_length=2048,
            activation_checkpointing="full",
        )
        write(format, target, tmp_path)
        done = subprocess.run([tmp_path / "launch.sh"], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stdout == ""
        words = " ".join(done.stderr.split())
        assert words.startswith("Trains llama-20m with ")
        assert "./launch.sh train.py" in words
        assert target.evidence in words
        assert "3 × 2048 tokens" in words
        assert "gradient_checkpointing_enable({'use_reentrant': False})" in words
        assert f"{num_nodes * 2 * 3 * 4} sequences" in words
        assert ("NODE_RANK" in words) == (num_nodes == 2)
        assert "set -euo" not in words

    @pytest.mark.parametrize("format", FORMATS)
    def test_several_nodes_need_to_know_each_other(
        self, format: str, make_target: MakeTarget, tmp_path: Path
    ) -> None:
        write(format, make_target(num_nodes=2, sharding="zero2"), tmp_path)
        for missing in ("NODE_RANK", "MASTER_ADDR"):
            given = {"NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
            del given[missing]
            done = subprocess.run(
                [tmp_path / "launch.sh", "train.py"],
                env={"PATH": os.environ["PATH"], **given},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 1
            assert f"{missing}: is the " in done.stderr

    @pytest.mark.parametrize("format", FORMATS)
    def test_hands_on_every_argument_as_it_is(
        self, format: str, make_target: MakeTarget, launched: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        folder = tmp_path / "with a space"
        write(format, make_target(sharding="zero2"), folder)
        arguments = ["my train.py", "--name", "a  b", "$HOME", "'", "*"]
        assert launched(folder, *arguments)[-6:] == arguments

    @given(
        words=st.text(alphabet=st.one_of(st.sampled_from("\n\r#'\"$`\\()!;"), st.characters(codec="utf-8")))
    )
    def test_words_of_others_stay_words(self, words: str, make_target: MakeTarget) -> None:
        """A model's name or a sentence of evidence never becomes a command."""
        plain, other = (
            FORMATS["accelerate"](
                make_target(sharding="fsdp", model_name=text, evidence=text, layer_class=text)
            )["launch.sh"]
            for text in ("x", "x" + words)
        )
        assert _commands(other) == _commands(plain)


def _commands(script: str) -> list[str]:
    return [line for line in script.split("\n") if not line.startswith("#")]
