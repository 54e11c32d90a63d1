"""What every Executor promises (autotune.execution.executor), as tests that each one's module inherits."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import psutil
import pytest
from execution.watching import PATIENCE_S, alive, below, endless, eventually, that_name, training
from probes import ENDLESS, probe

from autotune.errors import ExecutionUnavailable
from autotune.execution.executor import Executor
from trials.contract.messages import ProbeRequest, ProbeResult
from trials.contract.outcome import Outcome, Phase

TOO_LARGE = {"micro_batch_size": 8192}
CEILING_BYTES = 2**30
"""Room for what `probe` asks for, and none for a micro-batch that is too large."""

Started: TypeAlias = tuple[ProbeRequest, "Future[ProbeResult]"]
Start: TypeAlias = Callable[[], Started]


@dataclass(frozen=True)
class Closed:
    """What an executor leaves that was closed while two probes ran and another waited."""

    executor: Executor
    probes: "list[Future[ProbeResult]]"
    processes: list[psutil.Process]
    """That were started for it."""


class ExecutorContract(ABC):
    """On one executor of two slots; every test leaves it idle, and the last ones are about its end."""

    @classmethod
    @abstractmethod
    def open(cls, num_slots: int) -> Executor:
        """An executor for probes of one rank on the CPU."""

    @classmethod
    def is_training(cls, executor: Executor, request: ProbeRequest) -> bool:
        """Whether an `endless` probe has come to train."""
        return bool(training(request))

    @pytest.fixture(scope="class")
    @classmethod
    def before(cls) -> list[psutil.Process]:
        """Processes of other executors that this process may have."""
        return below() + that_name(str(os.getpid()))

    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls, before: list[psutil.Process]) -> Iterator[Executor]:
        with cls.open(num_slots=2) as executor:
            for warm in [executor.submit(probe(world_size=1)) for _ in range(2)]:
                warm.result(PATIENCE_S)
            yield executor

    @pytest.fixture(scope="class")
    @classmethod
    def closed(
        cls, executor: Executor, before: list[psutil.Process], tmp_path_factory: pytest.TempPathFactory
    ) -> Closed:
        requests = [endless(tmp_path_factory.mktemp("closed"), world_size=1) for _ in range(2)]
        with executor:
            probes = [executor.submit(request) for request in requests]
            eventually(lambda: all(cls.is_training(executor, request) for request in requests))
            probes.append(executor.submit(probe(world_size=1)))
            processes = [process for process in below() if process not in before]
        return Closed(executor, probes, processes)

    @pytest.fixture
    def start(self, executor: Executor, tmp_path: Path) -> Iterator[Start]:
        """Submit a probe that goes on until it is cancelled, at the latest when the test ends."""
        started: list[Started] = []

        def submit() -> Started:
            request = endless(tmp_path, world_size=1)
            started.append((request, executor.submit(request)))
            return started[-1]

        yield submit
        for request, _ in started:
            executor.cancel(request.probe_id)
        for _, future in started:
            future.result(PATIENCE_S)

    @pytest.fixture
    def one_runs(self, executor: Executor, start: Start) -> Started:
        """A probe that has one of the slots."""
        request, future = start()
        eventually(lambda: self.is_training(executor, request))
        return request, future

    def test_what_a_probe_measures_comes_back(self, executor: Executor) -> None:
        request = probe(world_size=1)
        result = executor.submit(request).result(PATIENCE_S)
        assert result.probe_id == request.probe_id
        assert (result.outcome, result.phase, result.reason) == (Outcome.MEASURED, Phase.DONE, None)
        assert len(result.step_s) == request.measurement.min_steps
        assert all(0 < seconds < math.inf for seconds in result.step_s)
        speed = result.tokens_per_second
        assert speed is not None
        assert 0 < speed.low <= speed.median <= speed.high < math.inf
        assert result.peak_bytes == result.memory[0].device_bytes > 0
        assert result.seconds > 0

    def test_a_running_probe_says_how_far_it_has_come(self, executor: Executor, one_runs: Started) -> None:
        request, _ = one_runs
        eventually(lambda: "rank 0: measure" in executor.log(request.probe_id))
        assert executor.log("no such probe") == ""

    def test_it_tells_beforehand_what_a_probe_is_measured_with(self, executor: Executor) -> None:
        told = executor.versions()
        assert told is not None
        assert told == executor.submit(probe(world_size=1)).result(PATIENCE_S).versions

    @pytest.mark.usefixtures("one_runs")
    def test_after_a_probe_out_of_memory_its_slot_measures_the_next(self, executor: Executor) -> None:
        too_large = probe(world_size=1, config=TOO_LARGE, ceiling_bytes=CEILING_BYTES)
        fitting = probe(world_size=1, ceiling_bytes=CEILING_BYTES)
        refused = executor.submit(too_large).result(PATIENCE_S)
        assert refused.outcome == Outcome.OUT_OF_MEMORY
        assert refused.reason
        assert refused.tokens_per_second is None
        measured = executor.submit(fitting).result(PATIENCE_S)
        assert measured.outcome == Outcome.MEASURED
        assert measured.peak_bytes is not None
        assert measured.peak_bytes <= CEILING_BYTES

    def test_a_probe_ends_at_its_deadline(self, executor: Executor) -> None:
        result = executor.submit(probe(world_size=1, measurement=ENDLESS, deadline_s=1.0)).result(PATIENCE_S)
        assert result.outcome == Outcome.TIMED_OUT
        assert "1 s" in (result.reason or "")

    def test_what_the_engine_refuses_is_invalid_and_says_why(self, executor: Executor) -> None:
        result = executor.submit(probe(world_size=1, config={"attention": "flash"})).result(PATIENCE_S)
        assert result.outcome == Outcome.INVALID
        assert result.reason == "flash attention runs on CUDA only"

    def test_a_running_probe_can_be_cancelled(self, executor: Executor, one_runs: Started) -> None:
        request, future = one_runs
        assert not future.done()
        executor.cancel(request.probe_id)
        result = future.result(PATIENCE_S)
        assert (result.outcome, result.reason) == (Outcome.INTERRUPTED, "cancelled")
        assert not self.is_training(executor, request)

    def test_a_waiting_probe_can_be_cancelled_while_the_slots_stay_taken(
        self, executor: Executor, one_runs: Started, start: Start
    ) -> None:
        other, other_future = start()
        eventually(lambda: self.is_training(executor, other))
        waiting, future = start()
        executor.cancel(waiting.probe_id)
        result = future.result(PATIENCE_S)
        assert (result.outcome, result.reason) == (Outcome.INTERRUPTED, "cancelled")
        assert result.phase == Phase.START
        assert not one_runs[1].done()
        assert not other_future.done()

    def test_a_probe_that_nobody_knows_is_not_cancelled(self, executor: Executor, one_runs: Started) -> None:
        ended = probe(world_size=1)
        executor.submit(ended).result(PATIENCE_S)
        for probe_id in ("unknown", ended.probe_id):
            executor.cancel(probe_id)
        assert executor.submit(probe(world_size=1)).result(PATIENCE_S).outcome == Outcome.MEASURED
        assert not one_runs[1].done()

    def test_as_many_probes_run_at_once_as_there_are_slots(
        self, executor: Executor, one_runs: Started, start: Start
    ) -> None:
        other, other_future = start()
        eventually(lambda: self.is_training(executor, other))
        assert self.is_training(executor, one_runs[0])
        assert not one_runs[1].done()
        assert not other_future.done()
        assert executor.num_slots == 2

    def test_more_probes_than_slots_wait_for_their_turn(self, executor: Executor) -> None:
        requests = [probe(world_size=1) for _ in range(5)]
        results = [future.result(PATIENCE_S) for future in [executor.submit(r) for r in requests]]
        assert [(r.probe_id, r.outcome, r.reason) for r in results] == [
            (request.probe_id, Outcome.MEASURED, None) for request in requests
        ]

    def test_closing_interrupts_what_runs_and_what_waits(self, closed: Closed) -> None:
        assert all(future.done() for future in closed.probes)
        results = [future.result() for future in closed.probes]
        assert [(r.outcome, r.reason) for r in results] == [
            (Outcome.INTERRUPTED, "the executor was closed")
        ] * 3

    def test_a_closed_executor_takes_no_more_probes(self, closed: Closed) -> None:
        with pytest.raises(ExecutionUnavailable, match="closed"):
            closed.executor.submit(probe(world_size=1))


class ProcessesContract(ExecutorContract):
    """Of executors that start processes."""

    def test_closing_leaves_no_process_behind(self, closed: Closed, before: list[psutil.Process]) -> None:
        assert closed.processes
        assert alive(closed.processes) == []
        assert set(that_name(str(os.getpid()))) <= set(before)
