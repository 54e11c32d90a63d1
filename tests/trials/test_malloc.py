"""A CPU rank's memory is what it uses: freed blocks go back, in a probe as under the launch script."""

import os
import subprocess
import sys

import pytest

from trials.contract.constants import engine_constants
from trials.contract.environment import allocator_variables

MIB = 2**20
CONSTANTS = engine_constants(0)
GROWN = """
import sys, torch
from pathlib import Path
from trials.malloc import give_back_from

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1:]:
    give_back_from(int(sys.argv[1]))
torch.ones(8).sum()
before = resident()
sizes = [3, 29, 7, 17, 11, 23, 5, 2, 13, 19]
for _ in range(3):
    held = [torch.ones(size * 2**18) for size in sizes * 3]
    last = held[-1]
    del held
print(resident() - before)
"""


def grown_bytes(*arguments: str, **variables: str) -> int:
    """What stays resident when all but a block of 19 MiB is free again."""
    done = subprocess.run(
        [sys.executable, "-c", GROWN, *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_freed_blocks_are_given_back() -> None:
    kept = grown_bytes()
    told = grown_bytes(str(CONSTANTS.cpu_mmap_threshold_bytes))
    exported = grown_bytes(**allocator_variables("cpu", CONSTANTS))
    assert kept > 100 * MIB
    assert 19 * MIB <= told < 30 * MIB
    assert exported == pytest.approx(told, abs=4 * MIB)


TIED = """
import torch
from pathlib import Path
from torch.nn.functional import embedding, linear
from trials.malloc import give_back_from

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))

give_back_from(1 << 20)
weight = torch.zeros(50_000, 256, requires_grad=True)
for _ in range(2):
    Path("/proc/self/clear_refs").write_text("5")
    weight.grad = None
    before = status("VmRSS")
    linear(embedding(torch.zeros(1, dtype=torch.int64), weight), weight).sum().backward()
print((status("VmHWM") - before) / weight.nbytes)
"""


def test_gradients_of_a_tied_matrix_are_added_into_a_third() -> None:
    """What forecast and trace count (`StorageTracker`, `_tied_sum`), with torch as it is installed."""
    done = subprocess.run([sys.executable, "-c", TIED], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(3, abs=0.2)
