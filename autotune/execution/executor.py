"""The Protocol of everything that can run a probe, and the pool of lanes that real executors are."""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from autotune.errors import ExecutionUnavailable
from trials.contract.messages import DeviceKind, ProbeRequest, ProbeResult, Versions, failure
from trials.contract.outcome import Outcome


@dataclass(frozen=True)
class Layout:
    """The devices one probe occupies, and for how many probes there is room."""

    device: DeviceKind
    num_nodes: int
    ranks_per_node: int
    num_slots: int
    """Probes that the inventory has room for at once."""

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.ranks_per_node


class Executor(Protocol):
    """Runs probes; a context manager that leaves no process behind.

    Whatever happens to a probe is an outcome in its result, never an exception: a deadline is
    `timed_out`, a worker or supervisor that died is `interrupted`, and so is a cancelled probe.
    A future raises ExecutionUnavailable only when there is nothing left to run probes on.
    """

    @property
    def num_slots(self) -> int:
        """Probes that can run at once; more wait for their turn."""

    def versions(self) -> Versions | None:
        """What a probe would be measured with, told without one; None where nothing can tell."""

    def submit(self, request: ProbeRequest) -> "Future[ProbeResult]":
        """Raises ExecutionUnavailable when the executor has been closed."""

    def log(self, probe_id: str) -> str:
        """How far a running probe has come, and what its ranks printed last; empty for any other."""

    def cancel(self, probe_id: str) -> None:
        """End a probe now, running or waiting, as `interrupted`; unknown ones are ignored."""

    def close(self) -> None:
        """End every probe, waiting ones too, as `interrupted`; when it returns, their processes are gone."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Lane(Protocol):
    """Devices for one probe at a time, kept warm from probe to probe."""

    def run(self, request: ProbeRequest) -> ProbeResult: ...

    def versions(self) -> Versions | None:
        """Of its devices; called while nothing runs there."""

    def log(self) -> str:
        """Of the probe that runs there; called from another thread."""

    def cancel(self, probe_id: str) -> None:
        """End this probe, which `run` has got, or gets or got just now; called from another thread."""

    def close(self) -> None:
        """End what runs and give the devices back; `run` returns soon after."""


class LaneExecutor:
    """An Executor of lanes: one thread for each."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._idle: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        for lane in lanes:
            self._idle.put(lane)
        self._waiting: dict[str, tuple[ProbeRequest, Future[ProbeResult]]] = {}
        """Probes that wait for their turn."""
        self._running: dict[str, Lane] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(len(lanes), thread_name_prefix="probe")

    @property
    def num_slots(self) -> int:
        return len(self._lanes)

    def versions(self) -> Versions | None:
        return self._lanes[0].versions()

    def submit(self, request: ProbeRequest) -> "Future[ProbeResult]":
        future: Future[ProbeResult] = Future()
        with self._lock:
            try:
                self._threads.submit(self._run, request, future)
            except RuntimeError as error:  # of a pool that was shut down
                raise ExecutionUnavailable("the executor was closed") from error
            self._waiting[request.probe_id] = request, future
        return future

    def log(self, probe_id: str) -> str:
        lane = self._running.get(probe_id)
        return "" if lane is None else lane.log()

    def cancel(self, probe_id: str) -> None:
        with self._lock:
            waiting = self._waiting.pop(probe_id, None)
            if lane := self._running.get(probe_id):
                lane.cancel(probe_id)
        if waiting:
            request, future = waiting
            future.set_result(failure(request, Outcome.INTERRUPTED, "cancelled"))

    def close(self) -> None:
        self._threads.shutdown(wait=False)
        for lane in self._lanes:
            lane.close()
        self._threads.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, request: ProbeRequest, future: "Future[ProbeResult]") -> None:
        lane = self._idle.get()
        try:
            with self._lock:
                if self._waiting.pop(request.probe_id, None) is None:
                    return  # it was cancelled, and has its result
                self._running[request.probe_id] = lane
            future.set_result(lane.run(request))
        except BaseException as error:
            future.set_exception(error)
        finally:
            with self._lock:
                self._running.pop(request.probe_id, None)
            self._idle.put(lane)
