"""The use cases, wired once: submit, run, resume, show, export."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from autotune.errors import (
    AutotuneError,
    BadInput,
    LeaseLost,
    NameInUse,
    NotHere,
    NothingMeasured,
    StorageUnavailable,
)
from autotune.execution.executor import Executor, Layout
from autotune.export import Target, write
from autotune.hardware.inventory import Inventory, NodeGroup
from autotune.hardware.parse import parse_inventory
from autotune.hardware.sizes import format_bytes, parse_size
from autotune.jobs import RESUMABLE, Job, JobSpec, JobStatus
from autotune.models.resolve import resolve
from autotune.models.shape import ModelShape
from autotune.report.answer import Answer
from autotune.report.recommend import Facts as AnswerFacts
from autotune.report.recommend import answer
from autotune.report.trials import TrialRow, trial_rows
from autotune.search.baseline import default_baseline
from autotune.search.candidates import Candidates, gather
from autotune.search.confirmation import Contender
from autotune.search.events import Listener
from autotune.search.history import TrialState
from autotune.search.keys import measurement_key
from autotune.search.loop import SearchLoop
from autotune.search.stopping import Budget
from autotune.search.study import SearchStudy
from autotune.storage.engine import optuna_storage
from autotune.storage.faults import mapped_errors
from autotune.storage.owner import Owner
from autotune.storage.records import Lease
from autotune.storage.repository import Repository
from search_spaces.columns import Value
from search_spaces.constraints import Facts, why_illegal
from search_spaces.space import SearchSpace
from trials.contract.config import TrainingConfig
from trials.contract.constants import engine_constants
from trials.contract.message import ContractError
from trials.contract.messages import MeasurementPlan, ProbeRequest, ProbeResult

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

LEASE_S = 60.0
"""A driver on another machine that has not renewed its lease for so long counts as dead."""
MIN_DEADLINE_S = 120.0
DEADLINE_STEPS = 60
"""A probe may take this many forecast steps, and never less than the minimum, before it is timed out: a
forecast that is wrong by less than a factor of two cannot end one."""
DEFAULT_SPACE: Mapping[str, str] = {"cpu": "cpu", "cuda": "fsdp"}
"""Device kind → space, where the user names none and there are several devices."""


@dataclass(frozen=True)
class TuneRequest:
    """A job in the user's own words; what is None is for autotune to decide."""

    model: str
    gpus: str = "auto"
    name: str | None = None
    ceiling: str | None = None
    headroom: float = 0.05
    space: str | None = None
    settings: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    baseline: TrainingConfig | None = None
    global_batch_size: int | None = None
    global_batch_tolerance: float = 0.10
    trials: int = 24
    minutes: float | None = None
    sampler: str = "forecast_order"
    seed: int = 0
    fresh: bool = False
    executor: str = "ray"
    ray_address: str | None = None


@dataclass(frozen=True)
class Problem:
    """A job's specification, worked out: everything that follows from it without a probe."""

    spec: JobSpec
    shape: ModelShape
    group: NodeGroup
    facts: Facts
    candidates: Candidates
    baseline: TrainingConfig

    @property
    def layout(self) -> Layout:
        """How its probes lie on the inventory."""
        group, world_size = self.group, self.spec.world_size
        if world_size > group.gpus_per_node:
            return Layout(group.gpu.kind, world_size // group.gpus_per_node, group.gpus_per_node, 1)
        return Layout(group.gpu.kind, 1, world_size, group.world_size // world_size)


class Service:
    """Everything a user can ask for, on one database."""

    def __init__(self, storage_url: str, executors: "Mapping[str, ExecutorFactory] | None" = None) -> None:
        """`executors`: what `--executor` can name, in place of ours. Raises StorageUnavailable."""
        self._url = storage_url
        self._executors = EXECUTORS if executors is None else executors
        self._repository = Repository(storage_url)

    def close(self) -> None:
        self._repository.close()
        if "_optuna" in vars(self):
            self._optuna.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def jobs(self) -> list[Job]:
        return self._repository.jobs()

    def job(self, name: str) -> Job:
        """Raises NoSuchJob naming the nearest."""
        return self._repository.job(name)

    def submit(self, request: TuneRequest) -> Job:
        """Check a job from end to end and record it; nothing is recorded when anything is wrong.

        Raises BadInput, NameInUse, NothingFits.
        """
        spec = specify(request)
        work_out(spec)
        if request.executor not in self._executors:
            raise BadInput(f"unknown executor {request.executor!r}; known are {', '.join(self._executors)}")
        if request.name is not None:
            return self._repository.create_job(spec)
        return self._create_with_free_name(spec)

    def run(self, name: str, listener: Listener) -> Answer:
        """Drive a job to its end, from wherever it stands.

        Raises LeaseLost when another driver has it, NothingMeasured when no probe came back with a
        figure, MachineFault where probes cannot run at all. KeyboardInterrupt pauses the job.
        """
        job = self._repository.job(name)
        if job.status not in RESUMABLE:
            raise BadInput(f"job {name!r} is {job.status}; `autotune show {name}` prints its answer")
        lease = self._repository.acquire_lease(job, Owner.current(), LEASE_S)
        try:
            return self._drive(job, lease, listener)
        finally:
            self._release(lease)

    def answer(self, name: str) -> Answer:
        """The answer of a job as it stands."""
        job = self._repository.job(name)
        problem = work_out(job.spec)
        with self._study(problem) as study:
            return self._answer(job, problem, study)

    def trials(self, name: str) -> list[TrialRow]:
        job = self._repository.job(name)
        with self._study(work_out(job.spec)) as study:
            return trial_rows(study.trials(), self._repository.measurements(job))

    def export(self, name: str, target_format: str, folder: Path) -> list[Path]:
        """Write the recommendation as files of another tool; raises NothingMeasured where there is none."""
        job = self._repository.job(name)
        recommendation = self.answer(name).recommendation
        if recommendation is None:
            raise NothingMeasured(f"job {name!r} has no recommendation yet; `autotune resume {name}` goes on")
        problem = work_out(job.spec)
        layout = problem.layout
        speed = recommendation.tokens_per_second
        target = Target(
            config=recommendation.config,
            model_name=job.spec.model.name,
            world_size=job.spec.world_size,
            num_nodes=layout.num_nodes,
            gpus_per_node=layout.ranks_per_node,
            device=layout.device,
            constants=engine_constants(problem.shape.num_parameters),
            layer_class=None,
            job_name=job.name,
            evidence=(
                f"{recommendation.evidence}: {speed.median:,.0f} tokens/s ({speed.low:,.0f} to "
                f"{speed.high:,.0f}), peak {recommendation.peak_bytes / 2**30:.2f} GiB per rank"
            ),
        )
        return write(target_format, target, folder)

    def _create_with_free_name(self, spec: JobSpec) -> Job:
        stem = re.sub(r"[^A-Za-z0-9._-]", "-", spec.model.name).strip("-._")[:50] or "job"
        taken = {job.name for job in self._repository.jobs()}
        number = 1
        while True:
            name = f"{stem}-{number}"
            number += 1
            if name in taken:
                continue
            try:
                return self._repository.create_job(spec.model_copy(update={"name": name}))
            except NameInUse:  # by somebody else, a moment ago
                continue

    def _drive(self, job: Job, lease: Lease, listener: Listener) -> Answer:
        repository = self._repository
        job = repository.set_status(lease, JobStatus.RUNNING)
        clock = _SpentClock(lambda seconds: repository.add_spent(lease, seconds))
        problem = work_out(job.spec)

        def heartbeat() -> None:
            repository.renew(lease)
            clock.tick()

        def commit(trial: int, repeat: int, config: TrainingConfig, result: ProbeResult) -> None:
            key = measurement_key(job.spec, config, result)
            repository.commit_measurement(lease, trial, repeat, key=key, config=config, result=result)

        try:
            with (
                self._study(problem) as study,
                self._executors[job.spec.executor](problem.layout, job.spec.ray_address) as executor,
            ):
                loop = SearchLoop(
                    problem.candidates,
                    problem.baseline,
                    study,
                    executor,
                    Budget(job.spec.trials, (job.spec.minutes or float("inf")) * 60),
                    request=lambda probe_id, config: probe_request(problem, probe_id, config),
                    commit=commit,
                    measured=repository.measurements(job),
                    heartbeat=heartbeat,
                    listener=listener,
                    seconds_before=job.spent_s,
                )
                reason = loop.run()
                clock.tick()
                final = replace(repository.job(job.name), status=JobStatus.FINISHED, reason=reason)
                result = self._answer(final, problem, study)
            if result.recommendation is None:
                raise NothingMeasured(_why_nothing(result, reason))
            # Finished is final, so the recommendation goes first.
            repository.save_recommendation(lease, result.to_dict())
            repository.set_status(lease, JobStatus.FINISHED, reason)
            return result
        except KeyboardInterrupt:
            repository.set_status(lease, JobStatus.PAUSED, "interrupted; `autotune resume` goes on")
            raise
        except (LeaseLost, StorageUnavailable):  # there is nothing left to write to
            raise
        except AutotuneError as error:
            repository.set_status(lease, JobStatus.FAILED, str(error))
            raise

    @cached_property
    def _optuna(self) -> "RDBStorage":
        """Opened with the first study, for importing Optuna takes longer than most commands."""
        return optuna_storage(self._url)

    @contextmanager
    def _study(self, problem: Problem) -> Iterator[SearchStudy]:
        """The study of a job; what its database does meanwhile becomes StorageUnavailable."""
        spec = problem.spec
        with mapped_errors(self._optuna.engine.url):
            yield SearchStudy(
                self._optuna, spec.name, problem.candidates, problem.baseline, spec.sampler, spec.seed
            )

    def _answer(self, job: Job, problem: Problem, study: SearchStudy) -> Answer:
        measurements = self._repository.measurements(job)
        trials = study.trials()
        results: dict[int, dict[int, ProbeResult]] = {}
        for measurement in measurements:
            results.setdefault(measurement.trial_number, {})[measurement.repeat] = measurement.result
        contenders = [
            Contender(trial.number, trial.config, results[trial.number], problem.candidates.usable_bytes)
            for trial in trials
            if trial.state == TrialState.COMPLETE and trial.number in results
        ]
        return answer(
            AnswerFacts(
                job=job,
                candidates=problem.candidates,
                trials=trials,
                contenders=contenders,
                baseline=problem.baseline,
                no_baseline=None,
                probe_seconds=sum(m.result.seconds for m in measurements),
            )
        )

    def _release(self, lease: Lease) -> None:
        try:
            self._repository.release(lease)
        except LeaseLost:  # somebody cancelled the job, or took it over
            return


ExecutorFactory = Callable[[Layout, str | None], Executor]
"""Layout and Ray address → an executor."""


def _local_executor(layout: Layout, ray_address: str | None) -> Executor:
    from autotune.execution.local import LocalExecutor
    from autotune.hardware.nvml import local_gpus

    gpu_ids = [gpu.uuid for gpu in local_gpus()] if layout.device == "cuda" else []
    needed = layout.num_slots * layout.world_size
    if layout.device == "cuda" and len(gpu_ids) < needed:
        raise NotHere(
            f"this machine has {len(gpu_ids)} of the {needed} GPUs of the inventory; use --gpus auto, "
            "--executor ray with --ray-address, or `autotune plan` for a forecast without them"
        )
    return LocalExecutor(layout, gpu_ids)


def _ray_executor(layout: Layout, ray_address: str | None) -> Executor:
    from autotune.execution.ray import RayExecutor

    return RayExecutor(layout, ray_address)


EXECUTORS: Mapping[str, ExecutorFactory] = {"ray": _ray_executor, "local": _local_executor}


class _SpentClock:
    """Adds the wall time since its last tick to the job."""

    def __init__(self, add: Callable[[float], None]) -> None:
        self._add = add
        self._last = time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        self._add(now - self._last)
        self._last = now


def specify(request: TuneRequest) -> JobSpec:
    """The user's words, resolved and frozen. Raises BadInput."""
    model = resolve(request.model)
    inventory = parse_inventory(request.gpus, request.ray_address)
    group = inventory.group
    try:
        space = SearchSpace.load(request.space or _default_space(group)).narrowed(request.settings)
        return JobSpec(
            name=request.name or "unnamed",
            model=model.spec,
            shape=asdict(model.shape),
            gpus=request.gpus,
            inventory=inventory.to_dict(),
            world_size=space.world_size or group.world_size,
            ceiling_bytes=_ceiling_bytes(request.ceiling, group),
            headroom=request.headroom,
            space=space.model_dump(mode="json"),
            global_batch_size=request.global_batch_size,
            global_batch_tolerance=request.global_batch_tolerance,
            baseline=request.baseline,
            trials=request.trials,
            minutes=request.minutes,
            sampler=request.sampler,
            seed=request.seed,
            fresh=request.fresh,
            executor=request.executor,
            ray_address=request.ray_address,
        )
    except ContractError as error:
        raise BadInput(str(error)) from error


def work_out(spec: JobSpec) -> Problem:
    """Enumerate and forecast. Deterministic, so that a resumed job finds what it left.

    Raises BadInput for a baseline that cannot run here, NothingFits where no candidate is left.
    """
    shape = ModelShape(**spec.shape)
    group = Inventory.from_dict(spec.inventory).group
    space = SearchSpace.parse(spec.space)
    facts = Facts(
        world_size=spec.world_size,
        gpus_per_node=min(group.gpus_per_node, spec.world_size),
        features=group.gpu.features,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        num_layers=shape.num_layers,
        vocab_size=shape.vocab_size,
        max_positions=shape.max_positions,
        model_type=shape.model_type,
        global_batch_size=spec.global_batch_size,
        global_batch_tolerance=spec.global_batch_tolerance,
    )
    try:
        if spec.baseline is not None and (reason := why_illegal(spec.baseline, facts)):
            raise BadInput(f"the baseline cannot run here: {reason}")
        candidates = gather(shape, group, facts, space, spec.ceiling_bytes, spec.headroom)
    except ContractError as error:
        raise BadInput(str(error)) from error
    return Problem(spec, shape, group, facts, candidates, spec.baseline or default_baseline(candidates))


def probe_request(problem: Problem, probe_id: str, config: TrainingConfig) -> ProbeRequest:
    index = problem.candidates.index(config)
    step_s = 0.0 if index is None else float(problem.candidates.forecast.step_s[index])
    layout = problem.layout
    return ProbeRequest(
        probe_id=probe_id,
        model=problem.spec.model,
        config=config,
        device=layout.device,
        world_size=layout.world_size,
        num_nodes=layout.num_nodes,
        ceiling_bytes=problem.spec.ceiling_bytes,
        deadline_s=max(MIN_DEADLINE_S, DEADLINE_STEPS * step_s),
        seed=problem.spec.seed,
        measurement=MeasurementPlan(),
    )


def _ceiling_bytes(text: str | None, group: NodeGroup) -> int:
    device_bytes = group.gpu.memory_bytes
    ceiling_bytes = device_bytes if text is None else parse_size(text, device_bytes)
    if ceiling_bytes > device_bytes:
        raise BadInput(
            f"--ceiling {text} is more than the {format_bytes(device_bytes)} that a {group.gpu.name} has"
        )
    return ceiling_bytes


def _default_space(group: NodeGroup) -> str:
    if group.gpu.kind == "cuda" and group.world_size == 1:
        return "single_gpu"
    return DEFAULT_SPACE[group.gpu.kind]


def _why_nothing(result: Answer, reason: str) -> str:
    counts = ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in result.counts.items())
    return (
        f"nothing could be measured ({counts or 'no probe ran'}): {reason}; "
        f"`autotune trials {result.job}` has the reason of each"
    )
