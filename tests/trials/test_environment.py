"""Threads: how many a rank uses, and that they come after the fork."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from probes import factory_model, probe

from trials.contract.environment import (
    THREAD_VARIABLES,
    probe_variables,
    thread_variables,
    threads_per_rank,
)
from trials.contract.messages import DeviceKind, ProbeRequest, ProbeResult

Run = Callable[[ProbeRequest], ProbeResult]
THREADS = 3

IN_A_FORK = f"""
import json, os, threading
import threadpoolctl, torch
from trials.threads import use_threads

assert len(os.listdir("/proc/self/task")) == 1, "threads before the fork"
if os.fork() == 0:
    use_threads({THREADS})
    pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"]
    print(json.dumps([torch.get_num_threads(), *pools, *map(int, map(os.environ.get, {THREAD_VARIABLES}))]))
else:
    os.wait()
"""


@pytest.mark.parametrize(
    ("device", "ranks", "cores", "threads"),
    [
        ("cpu", 2, 2, 1),
        ("cpu", 1, 64, 1),
        ("cuda", 1, 16, 16),
        ("cuda", 8, 96, 12),
        ("cuda", 8, 100, 12),
        ("cuda", 8, 4, 1),
    ],
)
def test_the_ranks_of_a_node_share_its_cores(
    device: DeviceKind, ranks: int, cores: int, threads: int
) -> None:
    assert threads_per_rank(device, ranks, cores) == threads


def test_the_process_that_forks_starts_no_threads() -> None:
    assert thread_variables(1).items() <= probe_variables("cpu").items()


def test_gpus_are_numbered_as_nvml_numbers_them() -> None:
    assert probe_variables("cuda")["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_a_rank_takes_its_threads_after_the_fork() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FORK],
        env={**os.environ, **probe_variables("cpu"), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    counts = json.loads(done.stdout or done.stderr)
    assert len(counts) > 1 + len(THREAD_VARIABLES)
    assert set(counts) == {THREADS}


def test_a_rank_on_cpu_is_one_thread(run: Run) -> None:
    result = run(probe(factory_model("unusable:tells_its_threads")))
    assert result.reason == "unusable:tells_its_threads raised RuntimeError: 1 of torch, 1 of OMP_NUM_THREADS"
