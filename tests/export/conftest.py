"""What the export tests share: targets, and what launch.sh hands to its launcher."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.export import Target
from trials.contract.config import TrainingConfig
from trials.contract.constants import engine_constants
from trials.contract.messages import DeviceKind

MakeTarget = Callable[..., Target]


@pytest.fixture(scope="session")
def make_target() -> MakeTarget:
    def make(
        device: DeviceKind = "cuda",
        num_nodes: int = 1,
        gpus_per_node: int = 2,
        *,
        model_name: str = "llama-20m",
        layer_class: str | None = "LlamaDecoderLayer",
        evidence: str = "confirmed: 1,234 tokens/s (1,200 to 1,260), peak 0.61 GiB per rank",
        **fields: Any,
    ) -> Target:
        return Target(
            config=TrainingConfig(**fields),
            model_name=model_name,
            world_size=num_nodes * gpus_per_node,
            num_nodes=num_nodes,
            gpus_per_node=gpus_per_node,
            device=device,
            constants=engine_constants(20_000_000),
            layer_class=layer_class,
            job_name="demo",
            evidence=evidence,
        )

    return make


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Run a launch.sh whose launcher is one that only writes down its arguments; return them."""
    programs = tmp_path_factory.mktemp("programs")
    for name in ("accelerate", "deepspeed", "torchrun"):
        program = programs / name
        program.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
        program.chmod(0o755)

    def launch(folder: Path, *arguments: str, **environment: str) -> list[str]:
        done = subprocess.run(
            [folder / "launch.sh", *(arguments or ("train.py",))],
            env={"PATH": f"{programs}:{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split("\0")[:-1]

    return launch
