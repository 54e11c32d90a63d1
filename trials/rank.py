"""One rank of one probe: join, build, warm up, measure, report."""

import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from trials.ceiling import CeilingReached
from trials.contract.capabilities import ENGINE_OF_SHARDING, refusal
from trials.contract.environment import threads_per_rank
from trials.contract.message import Message
from trials.contract.messages import NodeShare, ProbeRequest, RankReport
from trials.contract.outcome import Outcome, Phase
from trials.data import TokenBatches
from trials.devices import Device, open_device
from trials.engines import Engine, EngineRefusal, Setting, build_engine
from trials.failures import lost_peer, outcome_of, reason_of
from trials.measure import Stepper, measure, warm_up
from trials.mesh import place
from trials.threads import use_threads
from trials.versions import versions_of


class Journal:
    """A rank's file of JSON lines: one per phase it enters, with what it knows by then; the report last.

    The supervisor reads from it how far a rank came that could not say so itself.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = time.perf_counter()
        self.phase = Phase.START
        self.phase_s: dict[Phase, float] = {}

    def enter(self, phase: Phase, **known: Message) -> None:
        """`known`: fields of the report, for a rank that is ended before it can write one."""
        self._close_phase()
        self.phase = phase
        facts = {field: message.model_dump(mode="json") for field, message in known.items()}
        self._append(json.dumps({"phase": phase, "known": facts}))

    def step(self, count: int) -> None:
        self._append(f'{{"phase": "{self.phase}", "steps": {count}}}')

    def report(self, report: RankReport) -> None:
        self._append(report.to_json())

    def _close_phase(self) -> None:
        now = time.perf_counter()
        self.phase_s[self.phase] = now - self._started
        self._started = now

    def _append(self, line: str) -> None:
        with self._path.open("a") as file:
            file.write(line + "\n")


def run_rank(share: NodeShare, rank: int, journal_path: Path) -> RankReport:
    """Run one rank to its end; whatever happens becomes a report, which is also the journal's last line."""
    journal = Journal(journal_path)
    probe = _RankProbe(share, rank, journal)
    try:
        report = probe.run()
    except BaseException as error:
        report = probe.report(outcome_of(error, journal.phase), error)
    journal.report(report)
    return report


class _RankProbe:
    def __init__(self, share: NodeShare, rank: int, journal: Journal) -> None:
        self._share = share
        self._request = share.request
        self._rank = rank
        self._journal = journal
        self._device: Device | None = None
        self._engine: Engine | None = None
        self._stepper: Stepper | None = None
        self._throttled: str | None = None

    def run(self) -> RankReport:
        request, journal = self._request, self._journal
        journal.enter(Phase.START)
        use_threads(threads_per_rank(request.device, request.ranks_per_node, len(os.sched_getaffinity(0))))
        local_rank = self._rank - self._share.ranks.start
        device = self._device = open_device(request.device, local_rank)
        if why := refusal(request.config, device.features):
            raise EngineRefusal(why)
        self._check_ceiling(device)
        if request.ceiling_bytes is not None:
            device.enforce_ceiling(request.ceiling_bytes)
        with _process_group(self._share, self._rank, local_rank, device):
            journal.enter(Phase.BUILD, versions=versions_of(device, request.device))
            engine = self._engine = build_engine(_setting(request, device))
            batches = TokenBatches(
                request.config,
                vocab_size=engine.vocab_size,
                replica=place(request.config, request.world_size, self._rank).replica,
                num_replicas=request.config.data_parallel_size(request.world_size),
                seed=request.seed,
                device=device.torch_device,
            )
            stepper = self._stepper = Stepper(
                engine, batches, device, scaled=request.config.precision == "fp16"
            )

            self._check_ceiling(device)

            journal.enter(Phase.WARM_UP, constants=engine.constants)
            device.reset_peaks()
            warm_up(stepper, request.measurement)
            self._check_ceiling(device)

            journal.enter(Phase.MEASURE)
            outpaced = measure(stepper, request.measurement, journal.step)
            self._check_ceiling(device)
            self._throttled = device.throttled()
            journal.enter(Phase.DONE)
            return self.report(Outcome.OUTPACED if outpaced else Outcome.MEASURED, reason=outpaced)

    def _check_ceiling(self, device: Device) -> None:
        """Hold the peak against the ceiling, which counts more than what an allocator can refuse."""
        ceiling_bytes = self._request.ceiling_bytes
        if ceiling_bytes is not None and (held := device.peaks().device_bytes) > ceiling_bytes:
            raise CeilingReached(held, ceiling_bytes)

    def report(
        self, outcome: Outcome, error: BaseException | None = None, reason: str | None = None
    ) -> RankReport:
        measurement = self._stepper.measurement if self._stepper else None
        return RankReport(
            rank=self._rank,
            outcome=outcome,
            phase=self._journal.phase,
            reason=reason_of(error) if error else reason,
            lost_peer=lost_peer(error) if error else False,
            detail="".join(traceback.format_exception(error))[-4000:] if error else None,
            memory=self._device.peaks() if self._device else None,
            step_s=tuple(measurement.step_s) if measurement else (),
            losses=tuple(measurement.losses) if measurement else (),
            gradient_norms=tuple(measurement.gradient_norms) if measurement else (),
            num_parameters=self._engine.num_parameters if self._engine else None,
            constants=self._engine.constants if self._engine else None,
            versions=versions_of(self._device, self._request.device) if self._device else None,
            phase_s=self._journal.phase_s,
            throttled=self._throttled,
        )


def _setting(request: ProbeRequest, device: Device) -> Setting:
    return Setting(
        model=request.model,
        config=request.config,
        device_kind=request.device,
        device=device.torch_device,
        world_size=request.world_size,
        num_nodes=request.num_nodes,
        seed=request.seed,
    )


def _backend(request: ProbeRequest, device: Device) -> str:
    """With one for CPU tensors too where gradients are in CPU memory, of which a norm is made."""
    in_cpu_memory = request.config.offload == "optimizer_and_parameters"
    return f"cpu:gloo,cuda:{device.backend}" if request.device == "cuda" and in_cpu_memory else device.backend


@contextmanager
def _process_group(share: NodeShare, rank: int, local_rank: int, device: Device) -> Iterator[None]:
    """The probe's own process group, where its engine needs one."""
    request = share.request
    if request.world_size == 1 and ENGINE_OF_SHARDING[request.config.sharding] == "native":
        yield
        return
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(request.world_size),
        "LOCAL_WORLD_SIZE": str(request.ranks_per_node),
        "MASTER_ADDR": share.rendezvous_host,
        "MASTER_PORT": str(share.rendezvous_port),
    }
    if request.num_nodes == 1 and request.device == "cpu":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # a host whose own name does not resolve can still probe
    dist.init_process_group(
        _backend(request, device),
        timeout=timedelta(seconds=request.deadline_s),
        device_id=device.torch_device if request.device == "cuda" else None,
    )
    yield
    # No destroy_process_group: the process ends here, and NCCL's and DeepSpeed's teardown can hang or
    # abort after the work is done.
