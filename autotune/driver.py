"""`Driver`: takes a job from wherever it stands to its end, under a lease."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import MappingProxyType

from autotune.errors import AutotuneError, JobBusy, LeaseLost, NotHereYet, NotNow, StorageUnavailable
from autotune.execution.executor import Executor
from autotune.hardware.catalog import require_same
from autotune.jobs import Job, JobStatus
from autotune.record import Record
from autotune.report.answer import Answer
from autotune.report.job_plots import PLOTS
from autotune.report.note import note
from autotune.report.recommend import answer, why_nothing
from autotune.search.cost_model import Knowledge
from autotune.search.events import JobStarted, Listener
from autotune.search.experience import knowledge_of
from autotune.search.keys import measurement_key
from autotune.search.loop import SearchLoop
from autotune.search.measuring import Measuring
from autotune.search.problem import Problem, probe_request
from autotune.search.reuse import known_to
from autotune.search.stopping import Budget
from autotune.storage.owner import Owner
from autotune.storage.patience import patient
from autotune.storage.records import Lease
from trials.contract.config import TrainingConfig
from trials.contract.messages import ProbeResult

LEASE_S = 120.0
"""A driver on another machine that has not renewed its lease for so long counts as dead."""
WAITS_S: Mapping[type[AutotuneError], float] = MappingProxyType(
    {
        NotNow: math.inf,
        NotHereYet: 600.0,  # a machine that is started anew is back by then
    }
)
"""How long a job that a worker took waits for what it lacks; it fails at once of all else."""
INTERRUPTED: Mapping[JobStatus, str] = MappingProxyType(
    {
        JobStatus.PAUSED: "interrupted; `autotune resume` goes on",
        JobStatus.QUEUED: "its worker was stopped; another goes on",
    }
)
"""What becomes of a job whose driver is interrupted → why, in words."""


class Driver:
    """Drives one job at a time."""

    def __init__(self, record: Record, when_interrupted: JobStatus = JobStatus.PAUSED) -> None:
        self._record = record
        self._when_interrupted = when_interrupted

    @contextmanager
    def lease(self, job: Job) -> Iterator[Lease]:
        lease = self._record.repository.acquire_lease(job, Owner.current(), LEASE_S)
        with self.releasing(lease):
            yield lease

    @contextmanager
    def releasing(self, lease: Lease) -> Iterator[None]:
        """Give a lease back in the end; where that cannot be, it lapses, and hides nothing that happened."""
        try:
            yield
        finally:
            with suppress(LeaseLost, StorageUnavailable):  # LeaseLost: somebody cancelled it, or took it over
                self._record.repository.release(lease)

    def drive(
        self, job: Job, problem: Problem, lease: Lease, executor: Executor, listener: Listener
    ) -> Answer:
        """Search, confirm and recommend, from wherever the job stands.

        Raises LeaseLost when another driver takes it over, NothingMeasured when no probe came back with a
        figure, MachineFault where probes cannot run at all. KeyboardInterrupt leaves the job to be resumed.
        Waits a while for a database that is away.
        """
        repository = self._record.patient_repository
        clock = _SpentClock(lambda seconds: repository.add_spent(lease, seconds))

        def heartbeat() -> None:
            repository.renew(lease)
            clock.tick()

        def commit(
            trial: int, repeat: int, config: TrainingConfig, result: ProbeResult, reused_from: str | None
        ) -> None:
            if result.versions is not None:
                require_same(problem.group.gpu, result.versions.device_name)
            repository.commit_measurement(
                lease,
                trial,
                repeat,
                key=measurement_key(job.spec, config, result.versions),
                config=config,
                result=result,
                reused_from=reused_from,
            )

        job = repository.set_status(lease, JobStatus.RUNNING)
        try:
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
            found = known_to(job, repository, executor)
            known = {c: one for c, one in found.items() if problem.candidates.index(c) is not None}
            loop = SearchLoop(
                problem.candidates,
                problem.baseline,
                self._record.study(problem, knowledge_of(job, problem, repository, known)),
                executor,
                Budget.of(job.spec),
                request=lambda probe_id, config, plan: probe_request(problem, probe_id, config, plan),
                commit=commit,
                measured=repository.measurements(job),
                heartbeat=heartbeat,
                listener=listener,
                seconds_before=job.spent_s,
                measuring=Measuring(job.spec.world_size, job.spec.probe_seconds, job.spec.repeats),
                known=known,
                min_speed=job.spec.min_speed,
            )
            reason = loop.run()
            clock.tick()
            final = replace(repository.job(job.name), status=JobStatus.FINISHED, reason=reason)
            facts = patient(self._record).facts(final)
            result = answer(facts)
            if result.recommendation is None:
                raise why_nothing(facts, problem.candidates)
            # Finished is final, so the recommendation goes first.
            repository.save_recommendation(lease, result.to_dict())
            repository.set_status(lease, JobStatus.FINISHED, reason)
            return result
        except KeyboardInterrupt:
            # Whoever interrupts is obeyed at once, whatever has become of job and database meanwhile.
            with suppress(LeaseLost, StorageUnavailable):
                self._record.repository.set_status(
                    lease, self._when_interrupted, INTERRUPTED[self._when_interrupted]
                )
            raise
        except (LeaseLost, StorageUnavailable):  # there is nothing left to write to
            raise
        except Exception as error:
            self.give_up(lease, error)
            raise

    def give_up(self, lease: Lease, error: Exception) -> None:
        """Write down what becomes of a job that ends like this, and why, in words."""
        words = str(error) if isinstance(error, AutotuneError) else f"{type(error).__name__}: {error}"
        longest_s = next((seconds for kind, seconds in WAITS_S.items() if isinstance(error, kind)), None)
        if longest_s is not None and self._when_interrupted == JobStatus.QUEUED:
            self._record.repository.queue.put_back(lease, words, longest_s)
        else:
            self._record.patient_repository.set_status(lease, JobStatus.FAILED, words)

    @contextmanager
    def shown_on_dashboard(self, problem: Problem) -> Iterator[None]:
        """Let the Optuna dashboard show what a job came to, however it ended, once its probes have ended."""
        try:
            yield
        except (LeaseLost, JobBusy, StorageUnavailable):  # another driver's, or out of reach
            raise
        except BaseException:
            try:
                self._show(problem)
            except KeyboardInterrupt:
                if self._when_interrupted == JobStatus.QUEUED:  # a worker, which would go on to another job
                    raise
                # Whoever is in a hurry need not wait, and learns what happened.
            raise
        else:
            self._show(problem)

    def _show(self, problem: Problem) -> None:
        """All of it is recorded by now, so a page that cannot be drawn takes nothing away."""
        record, name = self._record, problem.spec.name
        try:
            if record.study_id(name) is None:
                return
            job = record.repository.job(name)
            shown = record.picture(job)
            figures = {plot: draw(shown) for plot, draw in PLOTS.items()}
            study = record.study(problem, Knowledge())
            study.publish(note(record.answer(job), shown.explanation), figures)
        except Exception as error:
            logging.getLogger(__name__).warning("the dashboard lacks this job's plots and note: %s", error)


class _SpentClock:
    """Adds the wall time since its last tick to the job."""

    def __init__(self, add: Callable[[float], None]) -> None:
        self._add = add
        self._last = time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        self._add(now - self._last)
        self._last = now
