"""What an exception of a rank means, shown on exceptions that really were raised where one can be had."""

import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from trials.ceiling import CeilingReached
from trials.contract.outcome import Outcome, Phase
from trials.contract.rendezvous import free_port
from trials.devices import DeviceMissing
from trials.engines import EngineRefusal
from trials.failures import (
    LOST_PEER_WORDS,
    NON_FINITE_WORDS,
    OUT_OF_MEMORY_WORDS,
    REFUSALS,
    lost_peer,
    outcome_of,
    reason_of,
)
from trials.measure import NonFinite
from trials.model import FactoryFailed, ModelUnusable

FAR_TOO_MUCH = 2**60
PHASES = list(Phase)


def raised_by(act: Callable[[], object]) -> BaseException:
    try:
        act()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def overflow_at_the_smallest_scale() -> None:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    scaler = DynamicLossScaler(
        init_scale=1, scale_window=1, min_scale=1, delayed_shift=1, consecutive_hysteresis=False
    )
    scaler.update_scale(overflow=True)


@pytest.mark.parametrize(
    "act",
    [
        lambda: torch.empty(FAR_TOO_MUCH),
        lambda: bytearray(FAR_TOO_MUCH),
        lambda: mmap.mmap(-1, FAR_TOO_MUCH),
    ],
    ids=["torch", "Python", "the kernel"],
)
@pytest.mark.parametrize("phase", PHASES)
def test_an_allocation_that_failed_is_out_of_memory(act: Callable[[], object], phase: Phase) -> None:
    assert outcome_of(raised_by(act), phase) == Outcome.OUT_OF_MEMORY


UNDER_A_LIMIT = """
import resource, torch
from trials.contract.outcome import Phase
from trials.failures import outcome_of, reason_of

matrix = torch.randn(1000, 1000)
unlimited = resource.getrlimit(resource.RLIMIT_AS)[1]
for room_bytes in range(0, 2**30, 2**21):
    held_bytes = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held_bytes + room_bytes, unlimited))
    try:
        torch.linalg.svd(matrix)
        break
    except Exception as error:
        print(outcome_of(error, Phase.WARM_UP), reason_of(error))
"""


def test_with_however_little_room_what_fails_below_torch_is_out_of_memory_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNDER_A_LIMIT],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    failures = done.stdout.splitlines()
    assert all(line.startswith("out_of_memory ") for line in failures)
    assert any("DefaultCPUAllocator" in line for line in failures)
    assert any("std::bad_alloc" in line for line in failures)


@pytest.mark.parametrize("words", OUT_OF_MEMORY_WORDS)
def test_a_message_that_tells_of_a_full_device_is_out_of_memory(words: str) -> None:
    assert outcome_of(RuntimeError(f"[op] {words} (1)"), Phase.MEASURE) == Outcome.OUT_OF_MEMORY


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        CeilingReached(2, 1),
        OSError(errno.ENOMEM, "fork"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_type_of_an_exception_can_tell_of_a_full_device(error: BaseException) -> None:
    assert outcome_of(error, Phase.BUILD) == Outcome.OUT_OF_MEMORY


def test_a_factory_that_finds_no_memory_is_out_of_memory() -> None:
    error = FactoryFailed("my:factory raised")
    error.__cause__ = raised_by(lambda: torch.empty(FAR_TOO_MUCH))
    assert outcome_of(error, Phase.BUILD) == Outcome.OUT_OF_MEMORY


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("error", [EngineRefusal("no"), ModelUnusable("no"), FactoryFailed("no")])
def test_what_the_engine_refuses_is_invalid(error: BaseException, phase: Phase) -> None:
    assert outcome_of(error, phase) == Outcome.INVALID


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_cannot_be_built_is_invalid_and_what_fails_later_is_a_crash(kind: type[Exception]) -> None:
    assert outcome_of(kind("x"), Phase.BUILD) == Outcome.INVALID
    for phase in set(Phase) - {Phase.BUILD}:
        assert outcome_of(kind("x"), phase) == Outcome.CRASHED


def test_numbers_that_are_not_finite_are_non_finite() -> None:
    assert outcome_of(NonFinite("the loss of step 1 is nan"), Phase.MEASURE) == Outcome.NON_FINITE


def test_a_loss_scaler_at_its_end_is_non_finite() -> None:
    error = raised_by(overflow_at_the_smallest_scale)
    assert any(words in str(error) for words in NON_FINITE_WORDS)
    assert outcome_of(error, Phase.WARM_UP) == Outcome.NON_FINITE


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700),
        OSError(errno.ENOSPC, "write"),
        DeviceMissing("there is no CUDA device 0"),
        SystemExit(3),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("phase", PHASES)
def test_everything_else_is_a_crash(error: BaseException, phase: Phase) -> None:
    assert outcome_of(error, phase) == Outcome.CRASHED


@pytest.mark.parametrize("words", LOST_PEER_WORDS)
def test_a_message_can_tell_of_a_lost_peer(words: str) -> None:
    assert lost_peer(RuntimeError(f"[pair.cc:1] {words} [127.0.0.1]:1"))


def test_a_store_that_is_gone_is_a_lost_peer() -> None:
    def connect() -> None:
        dist.TCPStore("127.0.0.1", free_port(), is_master=False, timeout=timedelta(seconds=1))

    assert lost_peer(raised_by(connect))


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes"), ValueError("Broken pipe"), CeilingReached(2, 1), SystemExit(1)]
)
def test_other_failures_are_a_ranks_own(error: BaseException) -> None:
    assert not lost_peer(error)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("first line\nsecond line"), "RuntimeError: first line"),
        (RuntimeError(), "RuntimeError"),
        (KeyError("x"), "KeyError: 'x'"),
        (NonFinite("the loss of step 3 is nan"), "the loss of step 3 is nan"),
        (CeilingReached(2 * 2**20, 2**20), "2.0 MiB are held, over the ceiling of 1.0 MiB"),
        (FactoryFailed("m:f raised ValueError: no"), "m:f raised ValueError: no"),
        (RuntimeError("x" * 1000), "RuntimeError: " + "x" * 300),
    ],
)
def test_a_reason_is_one_line(error: BaseException, reason: str) -> None:
    assert reason_of(error) == reason


def test_what_a_pipeline_wraps_is_told_by_what_it_was() -> None:
    wrapped = RuntimeError("[Stage 0] failed to run forward")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert outcome_of(wrapped, Phase.MEASURE) == Outcome.OUT_OF_MEMORY
    assert "CUDA out of memory" in reason_of(wrapped)
