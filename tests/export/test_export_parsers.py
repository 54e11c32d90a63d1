"""Every configuration that the engines can run, exported and read back by the tools' own parsers."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import BadInput
from autotune.export import Target, write
from trials.contract.capabilities import Feature, refusal
from trials.contract.config import TrainingConfig, choices
from trials.contract.deepspeed_config import deepspeed_config

MakeTarget = Callable[..., Target]
Launched = Callable[..., list[str]]

FEATURES: dict[str, frozenset[Feature]] = {
    "cpu": frozenset({"cpu", "bf16", "fp16"}),
    "cuda": frozenset({"cuda", "bf16", "fp16", "fp8"}),
}
VARIED = ("sharding", "precision", "activation_checkpointing", "offload")
BATCH = {"micro_batch_size": 3, "gradient_accumulation_steps": 2}
LAYOUT = {"num_nodes": 2, "gpus_per_node": 4}
RENDEZVOUS = {"NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29123"}

LEGAL = [
    (device, fields)
    for device in FEATURES
    for values in itertools.product(*(choices(field) or () for field in VARIED))
    if refusal(TrainingConfig(**(fields := dict(zip(VARIED, values, strict=True)))), FEATURES[device]) is None
]


def _read_back(
    tool: str, device: str, folders: Sequence[tuple[Path, int, list[str]]]
) -> list[dict[str, Any]]:
    lines = "\n".join(json.dumps([str(folder), world, arguments]) for folder, world, arguments in folders)
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("read_back.py"), tool],
        input=lines,
        env={**os.environ, "DS_ACCELERATOR": device},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


Exported = list[tuple[Target, Path, dict[str, Any]]]


def _export_all(
    tool: str, device: str, root: Path, make_target: MakeTarget, launched: Launched
) -> tuple[Exported, list[tuple[Target, str]]]:
    """Each legal configuration with its folder and what the tool read from it; and the refused ones."""
    written, refused = [], []
    for number, (kind, fields) in enumerate(LEGAL):
        if kind != device:
            continue
        target = make_target(device, **LAYOUT, **BATCH, **fields)
        try:
            write(tool, target, root / str(number))
        except BadInput as error:
            refused.append((target, str(error)))
        else:
            written.append((target, root / str(number)))
    arguments = [launched(folder, "train.py", "--x", **RENDEZVOUS) for _, folder in written]
    answers = _read_back(
        tool, device, [(f, t.world_size, a) for (t, f), a in zip(written, arguments, strict=True)]
    )
    return [(t, f, answer) for (t, f), answer in zip(written, answers, strict=True)], refused


@pytest.mark.parametrize("device", FEATURES)
def test_deepspeed(device: str, make_target: MakeTarget, launched: Launched, tmp_path: Path) -> None:
    exported, refused = _export_all("deepspeed", device, tmp_path, make_target, launched)
    assert {target.config.sharding for target, _, _ in exported} == {"ddp", "zero1", "zero2", "zero3"}
    assert all(t.config.sharding in ("fsdp", "hsdp") or t.config.precision == "fp8" for t, _ in refused)
    for target, folder, answer in exported:
        config = target.config
        precision, is_ddp = config.precision, config.sharding == "ddp"
        buckets = [5_000_000, 5_000_000]
        expected = {
            "devices": [[0, 1, 2, 3], [0, 1, 2, 3]],
            "node_rank": 1,
            "master": ["10.0.0.1", 29123],
            "script": ["train.py", "--x"],
            "stage": 0 if is_ddp else int(config.sharding[-1]),
            "batch": [3 * 2 * 8, 3, 2],
            "bf16": not is_ddp and precision.startswith("bf16"),
            "bf16_states": not is_ddp and precision == "bf16_pure",
            "fp16": not is_ddp and precision == "fp16",
            "autocast": {"bf16": "torch.bfloat16", "fp16": "torch.float16"}.get(precision)
            if is_ddp
            else None,
            "offload": "cpu" if config.offload in ("optimizer", "optimizer_and_parameters") else None,
            "clip": 1.0,
        }
        assert {key: answer.get(key) for key in expected} == expected, (target, answer)
        assert answer["optimizer"][0] == "adamw"
        if not is_ddp:
            assert answer["buckets"] == buckets
            probed = deepspeed_config(config, target.constants, target.world_size, target.device)
            assert json.loads((folder / "ds_config.json").read_text()) == probed


def test_deepspeed_takes_the_gpus_it_may_see(
    make_target: MakeTarget, launched: Launched, tmp_path: Path
) -> None:
    write("deepspeed", make_target(sharding="zero2"), tmp_path)
    arguments = [launched(tmp_path), launched(tmp_path, CUDA_VISIBLE_DEVICES="4,6")]
    answers = _read_back("deepspeed", "cuda", [(tmp_path, 2, each) for each in arguments])
    assert [answer["devices"] for answer in answers] == [[[0, 1]], [[4, 6]]]
    assert [answer["script"] for answer in answers] == [["train.py"]] * 2


MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16", "bf16_pure": "no"}


def test_accelerate_on_gpus(make_target: MakeTarget, launched: Launched, tmp_path: Path) -> None:
    exported, refused = _export_all("accelerate", "cuda", tmp_path, make_target, launched)
    assert {t.config.precision for t, _ in refused} <= {"fp8"}
    assert {t.config.sharding for t, _, _ in exported} >= {"ddp", "fsdp", "zero1", "zero2", "zero3"}
    for target, _, answer in exported:
        config = target.config
        expected: dict[str, Any] = {
            "processes": 8,
            "machines": [2, 1],
            "master": ["10.0.0.1", 29123],
            "script": ["train.py", "--x"],
            "use_cpu": False,
            "mixed_precision": MIXED_PRECISION[config.precision],
        }
        if config.sharding == "ddp":
            expected |= {"type": "MULTI_GPU"}
        elif config.sharding in ("fsdp", "hsdp"):
            expected |= {
                "type": "FSDP",
                "version": 2,
                "reshard": True,
                "wrap": ["transformer_auto_wrap_policy", ["LlamaDecoderLayer"]],
                "checkpointing": config.activation_checkpointing == "full",
                "offload": "CPUOffloadPolicy"
                if config.offload == "optimizer_and_parameters"
                else "OffloadPolicy",
                "mesh": [2, 4] if config.sharding == "hsdp" else None,
            }
        else:
            probed = deepspeed_config(config, target.constants, 8, "cuda")
            expected |= {
                "type": "DEEPSPEED",
                "stage": int(config.sharding[-1]),
                "partitioned_init": config.sharding == "zero3",
                "config": {key: value for key, value in probed.items() if key != "optimizer"},
                # What accelerate itself would set; DeepSpeed's configuration decides.
                "mixed_precision": "no",
            }
        assert {key: answer.get(key) for key in expected} == expected, (target, answer)


def test_accelerate_on_cpu(make_target: MakeTarget, launched: Launched, tmp_path: Path) -> None:
    exported, refused = _export_all("accelerate", "cpu", tmp_path, make_target, launched)
    assert all(t.config.sharding != "ddp" or t.config.precision in ("fp16", "fp8") for t, _ in refused)
    for target, _, answer in exported:
        assert target.config.sharding == "ddp"
        expected = {
            "type": "MULTI_CPU",
            "use_cpu": True,
            "processes": 8,
            "machines": [2, 1],
            "mixed_precision": MIXED_PRECISION[target.config.precision],
        }
        assert {key: answer.get(key) for key in expected} == expected, (target, answer)


def test_accelerate_hybrid_sharding(make_target: MakeTarget, launched: Launched, tmp_path: Path) -> None:
    target = make_target(**LAYOUT, sharding="hsdp", offload="optimizer_and_parameters", layer_class=None)
    write("accelerate", target, tmp_path)
    (answer,) = _read_back("accelerate", "cuda", [(tmp_path, 8, launched(tmp_path, **RENDEZVOUS))])
    assert answer["mesh"] == [2, 4]
    assert answer["offload"] == "CPUOffloadPolicy"
    assert answer["wrap"] == ["transformer_auto_wrap_policy", None]  # accelerate then asks the model


@pytest.mark.parametrize("device", FEATURES)
def test_torchrun(device: str, make_target: MakeTarget, launched: Launched, tmp_path: Path) -> None:
    from torch.distributed.run import config_from_args, parse_args

    for number, (kind, fields) in enumerate(LEGAL):
        if kind != device:
            continue
        target = make_target(device, **LAYOUT, **BATCH, **fields)
        folder = tmp_path / str(number)
        write("torchrun", target, folder)
        assert (
            TrainingConfig.parse(json.loads((folder / "training.json").read_text())["config"])
            == target.config
        )
        assert (folder / "ds_config.json").exists() == target.config.sharding.startswith("zero")
    args = parse_args(launched(folder, "train.py", "--x", **RENDEZVOUS))
    config, _, arguments = config_from_args(args)
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 4)
    assert config.rdzv_endpoint == "10.0.0.1:29123"
    assert config.rdzv_configs["rank"] == 1
    assert arguments[-2:] == ["train.py", "--x"]
