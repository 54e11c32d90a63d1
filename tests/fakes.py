"""In-memory stand-ins behind Protocols; each passes the contract suite that the real ones pass."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from probes import CPU

from autotune.errors import ExecutionUnavailable
from trials.contract.capabilities import refusal
from trials.contract.config import TrainingConfig
from trials.contract.constants import PROTOCOL_VERSION, engine_constants
from trials.contract.messages import MemoryPeaks, ProbeRequest, ProbeResult, Versions, failure
from trials.contract.outcome import Outcome, Phase
from trials.contract.statistics import throughput

MIB = 2**20
NUM_PARAMETERS = 20_000_000


def speed_of(config: TrainingConfig) -> float:
    """Tokens/s: the larger the micro-batch the faster, in decreasing steps; bf16 twice as fast; FSDP a bit
    slower.
    """
    base = 1000 * (2 if config.precision == "bf16" else 1) * (0.9 if config.sharding == "fsdp" else 1.0)
    return base * config.micro_batch_size / (config.micro_batch_size + 1)


def peak_of(config: TrainingConfig) -> int:
    return (400 + 300 * config.micro_batch_size) * MIB


@dataclass(frozen=True)
class _Probe:
    request: ProbeRequest
    attempt: int
    """How often this configuration has been asked for, this time included."""
    future: "Future[ProbeResult]"


class FakeExecutor:
    """Answers at once with what `outcome_of` and `speed`, in tokens/s, say of a configuration and attempt.

    A probe that may measure for longer than its deadline goes on until then, or until it is cancelled.
    """

    def __init__(
        self,
        outcome_of: Callable[[TrainingConfig, int], Outcome] = lambda config, attempt: Outcome.MEASURED,
        speed: Callable[[TrainingConfig, int], float] = lambda config, attempt: speed_of(config),
        num_slots: int = 1,
        device_name: str = "a CPU",
        protocol: int = PROTOCOL_VERSION,
    ) -> None:
        self.num_slots = num_slots
        self.asked: list[TrainingConfig] = []
        self._outcome_of = outcome_of
        self._speed = speed
        self._versions = Versions(
            device_name=device_name, python="3", torch="2", transformers="5", protocol=protocol
        )
        self._waiting: dict[str, _Probe] = {}
        self._running: dict[str, tuple[_Probe, threading.Timer]] = {}
        self._closed = False
        self._lock = threading.RLock()

    def versions(self) -> Versions | None:
        return self._versions

    def submit(self, request: ProbeRequest) -> "Future[ProbeResult]":
        with self._lock:
            if self._closed:
                raise ExecutionUnavailable("the executor was closed")
            self.asked.append(request.config)
            probe = _Probe(request, self.asked.count(request.config), Future())
            self._waiting[request.probe_id] = probe
            self._fill_slots()
        return probe.future

    def is_running(self, probe_id: str) -> bool:
        return probe_id in self._running

    def log(self, probe_id: str) -> str:
        return "rank 0: measure" if self.is_running(probe_id) else ""

    def cancel(self, probe_id: str) -> None:
        self._end(probe_id, Outcome.INTERRUPTED, "cancelled")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for probe_id in [*self._waiting, *self._running]:
                self._end(probe_id, Outcome.INTERRUPTED, "the executor was closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fill_slots(self) -> None:
        while self._waiting and len(self._running) < self.num_slots:
            probe = self._waiting.pop(next(iter(self._waiting)))
            request = probe.request
            if request.measurement.max_measure_s <= request.deadline_s:
                probe.future.set_result(self._answer(probe))
                continue
            late = f"not done after {request.deadline_s:g} s"
            timer = threading.Timer(
                request.deadline_s, self._end, (request.probe_id, Outcome.TIMED_OUT, late)
            )
            self._running[request.probe_id] = probe, timer
            timer.start()

    def _end(self, probe_id: str, outcome: Outcome, reason: str) -> None:
        with self._lock:
            if probe := self._waiting.pop(probe_id, None):
                probe.future.set_result(failure(probe.request, outcome, reason))
            elif probe_id in self._running:
                probe, timer = self._running.pop(probe_id)
                timer.cancel()
                probe.future.set_result(failure(probe.request, outcome, reason, phase=Phase.MEASURE))
                self._fill_slots()

    def _answer(self, probe: _Probe) -> ProbeResult:
        request, config = probe.request, probe.request.config
        if why := refusal(config, CPU):
            return failure(request, Outcome.INVALID, why)
        outcome, peak = self._outcome_of(config, probe.attempt), peak_of(config)
        if outcome == Outcome.MEASURED and request.ceiling_bytes is not None and peak > request.ceiling_bytes:
            outcome = Outcome.OUT_OF_MEMORY
        result = failure(request, outcome, f"scripted {outcome}", phase=Phase.WARM_UP, seconds=1.0)
        figures = {"peak_bytes": peak, "memory": (MemoryPeaks(device_bytes=peak),) * request.world_size}
        if outcome == Outcome.MEASURED:
            tokens = config.tokens_per_step(request.world_size)
            step_s = (tokens / self._speed(config, probe.attempt),) * request.measurement.min_steps
            figures |= {
                "phase": Phase.DONE,
                "reason": None,
                "step_s": step_s,
                "tokens_per_second": throughput(tokens, step_s),
                "constants": engine_constants(NUM_PARAMETERS),
                "versions": self._versions,
            }
        return result.model_copy(update=figures)
