"""The use cases, wired once: submit, run, resume, show, export."""

import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
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
from autotune.hardware.catalog import require_same
from autotune.hardware.sizes import format_bytes
from autotune.jobs import RESUMABLE, Job, JobSpec, JobStatus
from autotune.report.answer import Answer
from autotune.report.recommend import Facts, answer, why_nothing
from autotune.report.trials import TrialRow, trial_rows
from autotune.request import UNNAMED, TuneRequest, specify
from autotune.search.confirmation import gather_contenders
from autotune.search.events import JobStarted, Listener
from autotune.search.keys import measurement_key
from autotune.search.loop import SearchLoop
from autotune.search.problem import Problem, probe_request, work_out
from autotune.search.samplers import require_sampler
from autotune.search.stopping import Budget
from autotune.search.study import SearchStudy
from autotune.storage.engine import optuna_storage
from autotune.storage.faults import mapped_errors
from autotune.storage.owner import Owner
from autotune.storage.records import Lease
from autotune.storage.repository import Repository
from trials.contract.config import TrainingConfig
from trials.contract.messages import ProbeResult

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

LEASE_S = 120.0
"""A driver on another machine that has not renewed its lease for so long counts as dead."""


class Service:
    """Everything a user can ask for, on one database."""

    def __init__(self, storage_url: str, executors: "Mapping[str, ExecutorFactory] | None" = None) -> None:
        """`executors`: what `--executor` can name, in place of ours. Raises BadInput where the
        database cannot be opened.
        """
        self._url = storage_url
        self._executors = EXECUTORS if executors is None else executors
        try:
            self._repository = Repository(storage_url)
        except StorageUnavailable as error:  # at the start it is what was asked for that is wrong
            raise BadInput(str(error)) from error

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

    def tune(self, request: TuneRequest, listener: Listener) -> Answer:
        """Check a job from end to end, record it and drive it; nothing is recorded when anything is wrong.

        Raises what `run` does, and BadInput, NameInUse, NothingFits, NotHere before the job exists.
        """
        spec = specify(request)
        problem = work_out(spec)
        require_sampler(spec.sampler)
        self._repository.require_free(spec.name)
        with self._executor(problem) as executor:
            job = self._create(spec)
            with self._lease(job) as lease:
                return self._drive(job, replace(problem, spec=job.spec), lease, executor, listener)

    def run(self, name: str, listener: Listener) -> Answer:
        """Drive a job to its end, from wherever it stands; one that is finished just gives its answer.

        Raises JobBusy when another driver has it and LeaseLost when one takes it over, NothingMeasured
        when no probe came back with a figure, MachineFault where probes cannot run at all.
        KeyboardInterrupt pauses the job.
        """
        job = self._repository.job(name)
        if job.status == JobStatus.FINISHED:
            return self.answer(name)
        if job.status not in RESUMABLE:
            raise BadInput(f"job {name!r} is {job.status}; `autotune show {name}` prints what it found")
        problem = work_out(job.spec)
        with self._lease(job) as lease, self._executor(problem) as executor:
            return self._drive(job, problem, lease, executor, listener)

    def answer(self, name: str) -> Answer:
        """The answer of a job as it stands; of one that is finished, as it was given."""
        job = self._repository.job(name)
        if saved := self._repository.recommendation(job):
            return Answer.parse({**saved, "status": job.status, "reason": job.reason})
        problem = work_out(job.spec)
        with self._study(problem) as study:
            return answer(self._facts(job, problem, study))

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
        measured_with = [
            measurement.result.constants
            for measurement in self._repository.measurements(job)
            if measurement.trial_number == recommendation.trial
        ]
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
            constants=next(filter(None, measured_with)),
            layer_class=None,
            job_name=job.name,
            evidence=(
                f"{recommendation.evidence}: {speed.median:,.0f} tokens/s ({speed.low:,.0f} to "
                f"{speed.high:,.0f}), peak {format_bytes(recommendation.peak_bytes)} per rank"
            ),
        )
        return write(target_format, target, folder)

    def _executor(self, problem: Problem) -> Executor:
        return self._executors[problem.spec.executor](problem.layout, problem.spec.ray_address)

    def _create(self, spec: JobSpec) -> Job:
        if spec.name != UNNAMED:
            return self._repository.create_job(spec)
        stem = re.sub(r"[^A-Za-z0-9._-]", "-", spec.model.name).strip("-._")[:50] or "job"
        taken = {job.name for job in self._repository.jobs()}
        for number in itertools.count(1):
            name = f"{stem}-{number}"
            if name not in taken:
                # Somebody else may take it a moment before us.
                with suppress(NameInUse):
                    return self._repository.create_job(spec.model_copy(update={"name": name}))
        raise AssertionError("there are always more numbers")

    @contextmanager
    def _lease(self, job: Job) -> Iterator[Lease]:
        lease = self._repository.acquire_lease(job, Owner.current(), LEASE_S)
        try:
            yield lease
        finally:
            with suppress(LeaseLost):  # somebody cancelled the job, or took it over
                self._repository.release(lease)

    def _drive(
        self, job: Job, problem: Problem, lease: Lease, executor: Executor, listener: Listener
    ) -> Answer:
        repository = self._repository
        clock = _SpentClock(lambda seconds: repository.add_spent(lease, seconds))

        def heartbeat() -> None:
            repository.renew(lease)
            clock.tick()

        def commit(trial: int, repeat: int, config: TrainingConfig, result: ProbeResult) -> None:
            if result.versions is not None:
                require_same(problem.group.gpu, result.versions.device_name)
            key = measurement_key(job.spec, config, result)
            repository.commit_measurement(lease, trial, repeat, key=key, config=config, result=result)

        try:
            job = repository.set_status(lease, JobStatus.RUNNING)
            listener(
                JobStarted(
                    job.name,
                    job.spec.ceiling_bytes,
                    job.spec.trials,
                    candidates=len(problem.candidates),
                    rejected=problem.candidates.rejected,
                    notes=job.spec.notes,
                )
            )
            with self._study(problem) as study:
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
                facts = self._facts(final, problem, study)
                result = answer(facts)
            if result.recommendation is None:
                raise why_nothing(facts, result)
            # Finished is final, so the recommendation goes first.
            repository.save_recommendation(lease, result.to_dict())
            repository.set_status(lease, JobStatus.FINISHED, reason)
            return result
        except KeyboardInterrupt:
            repository.set_status(lease, JobStatus.PAUSED, "interrupted; `autotune resume` goes on")
            raise
        except (LeaseLost, StorageUnavailable):  # there is nothing left to write to
            raise
        except Exception as error:
            words = str(error) if isinstance(error, AutotuneError) else f"{type(error).__name__}: {error}"
            repository.set_status(lease, JobStatus.FAILED, words)
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

    def _facts(self, job: Job, problem: Problem, study: SearchStudy) -> Facts:
        measurements = self._repository.measurements(job)
        trials = study.trials()
        results: dict[int, dict[int, ProbeResult]] = {}
        for measurement in measurements:
            results.setdefault(measurement.trial_number, {})[measurement.repeat] = measurement.result
        return Facts(
            job=job,
            problem=problem,
            trials=trials,
            contenders=gather_contenders(trials, results, problem.candidates.usable_bytes),
            probe_seconds=sum(m.result.seconds for m in measurements),
        )


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
