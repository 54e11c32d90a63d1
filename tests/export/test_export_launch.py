"""Each launch.sh starts a real training script on two CPU ranks, which sees and trains what was exported."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from autotune.export import Target, write

MakeTarget = Callable[..., Target]

TRAIN = Path(__file__).with_name("train.py")
TIMEOUT_S = 240
"""DeepSpeed compiles an operator the first time it runs on a machine."""


Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def run() -> Run:
    """Run launch.sh of every node at once; return what each rank wrote, by rank."""
    environment = {
        **os.environ,
        # As in an activated environment; its ninja is also the one that the probes compile with.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(TRAIN.parents[2]),
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "7",  # what launch.sh says prevails
    }

    def run_nodes(scripts: Sequence[Path], tool: str, out: Path, *files: Path) -> list[dict[str, Any]]:
        out.mkdir()
        port = str(_free_port())
        nodes = []
        try:
            for rank, script in enumerate(scripts):
                with (out / f"node-{rank}.log").open("w") as log:
                    nodes.append(
                        subprocess.Popen(
                            [script, TRAIN, tool, out, *files],
                            env={**environment, "MASTER_PORT": port, "NODE_RANK": str(rank)},
                            cwd=out,
                            stdout=log,
                            stderr=log,
                            start_new_session=True,
                        )
                    )
            codes = [node.wait(TIMEOUT_S) for node in nodes]
        finally:
            for node in nodes:
                if node.poll() is None:
                    os.killpg(node.pid, signal.SIGKILL)
                    node.wait()
        logs = "\n".join(log.read_text() for log in sorted(out.glob("node-*.log")))
        assert not any(codes), logs[-4000:]
        return [json.loads(path.read_text()) for path in sorted(out.glob("rank-*.json"))]

    return run_nodes


def _free_port() -> int:
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        port: int = candidate.getsockname()[1]
        return port


def _same_weights(ranks: Sequence[dict[str, Any]]) -> bool:
    """Trained, and together: each rank had tokens of its own."""
    return all(rank["trained"] for rank in ranks) and len({rank["weights"] for rank in ranks}) == 1


@pytest.mark.parametrize("num_nodes", [1, 2])
def test_torchrun(num_nodes: int, make_target: MakeTarget, run: Run, tmp_path: Path) -> None:
    target = make_target(
        "cpu", num_nodes, 2 // num_nodes, gradient_accumulation_steps=2, micro_batch_size=3, sequence_length=8
    )
    folder = tmp_path / "my export"
    write("torchrun", target, folder)
    ranks = run(
        [folder / "launch.sh"] * num_nodes,
        "torchrun",
        tmp_path / "out",
        folder / "training.json",
    )
    assert [rank["rank"] for rank in ranks] == [0, 1]
    for rank in ranks:
        assert rank["world_size"] == 2
        assert rank["threads"] == "1"
        assert rank["computes_in"] == "torch.bfloat16"
    assert _same_weights(ranks)


def test_accelerate(make_target: MakeTarget, run: Run, tmp_path: Path) -> None:
    target = make_target("cpu", gradient_accumulation_steps=2, precision="bf16")
    folder = tmp_path / "my export"
    write("accelerate", target, folder)
    ranks = run([folder / "launch.sh"], "accelerate", tmp_path / "out")
    assert [rank["rank"] for rank in ranks] == [0, 1]
    for rank in ranks:
        assert rank["world_size"] == 2
        assert rank["threads"] == "1"
        assert rank["type"] == "MULTI_CPU"
        assert rank["mixed_precision"] == "bf16"
        assert rank["computes_in"] == "torch.bfloat16"
        assert rank["accumulation"] == 2
        assert rank["steps"] == [False, True, False, True]
    assert _same_weights(ranks)


STAGES = [
    # sharding, precision, DeepSpeed's stage, weights, output of a linear layer
    ("zero2", "bf16", 2, "torch.bfloat16", "torch.bfloat16"),
    ("zero3", "fp32", 3, "torch.float32", "torch.float32"),
    ("ddp", "bf16", 0, "torch.float32", "torch.bfloat16"),
    ("ddp", "fp16", 0, "torch.float32", "torch.float16"),
]


@pytest.mark.parametrize("num_nodes", [1, 2])
def test_deepspeed(num_nodes: int, make_target: MakeTarget, run: Run, tmp_path: Path) -> None:
    """On one node every kind of configuration, one after the other in the same processes."""
    stages = STAGES if num_nodes == 1 else STAGES[:1]
    folders = [tmp_path / f"{sharding} {precision}" for sharding, precision, *_ in stages]
    for folder, (sharding, precision, *_) in zip(folders, stages, strict=True):
        target = make_target(
            "cpu", num_nodes, 2 // num_nodes,
            sharding=sharding, precision=precision, micro_batch_size=3, gradient_accumulation_steps=2,
        )  # fmt: skip
        write("deepspeed", target, folder)
    ranks = run(
        [folders[0] / "launch.sh"] * num_nodes,
        "deepspeed",
        tmp_path / "out",
        *(folder / "ds_config.json" for folder in folders),
    )
    assert [rank["rank"] for rank in ranks] == [0, 1]
    for rank in ranks:
        assert rank["world_size"] == 2
        assert rank["accelerator"] == "cpu"
        assert rank["threads"] == "1"
        for (*_, stage, stored, computed), engine in zip(stages, rank["engines"], strict=True):
            assert engine["stage"] == stage
            assert engine["batch"] == 12
            assert engine["accumulation"] == 2
            assert engine["steps"] == 1
            assert engine["stored_in"] == stored
            assert engine["computes_in"] == computed
    for number, (*_, stage, _, _) in enumerate(stages):
        engines = [rank["engines"][number] for rank in ranks]
        if stage < 3:  # where each rank holds all weights
            assert _same_weights(engines)
