"""The use cases, wired once: submit, run, resume, show, export."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Self

from autotune.driver import Driver
from autotune.errors import (
    BadInput,
    ExecutionUnavailable,
    MachineFault,
    NameInUse,
    NotFound,
    NothingMeasured,
    StorageUnavailable,
)
from autotune.execution.executor import Executor
from autotune.executors import EXECUTORS, ExecutorFactory
from autotune.export import Target, accepting, files, require_format, write
from autotune.jobs import RESUMABLE, Job, JobSpec, JobStatus
from autotune.record import Record
from autotune.report.answer import Answer
from autotune.report.explanation import JobExplanation
from autotune.report.forecast_points import ForecastPoint, forecast_points
from autotune.report.job_plots import save_plots
from autotune.report.job_view import JobView, job_view
from autotune.report.progress import LOG
from autotune.report.table import table_of
from autotune.report.target import target_of
from autotune.report.trials import TrialRow, trial_rows
from autotune.request import UNNAMED, TuneRequest, specify
from autotune.search.events import Listener
from autotune.search.problem import Problem, premises, work_out
from autotune.search.samplers import require_sampler
from autotune.storage.records import JobEvent, JobSummary, Mark
from autotune.storage.repository import Repository, name_in_use, no_such_job
from autotune.storage.tokens import Role, TokenRecord
from autotune.telling import teller
from trials.contract.probe_log import kept_log

KEPT_JOBS = 64
"""Whose forecasts and explanations stay worked out for those who look at them."""


class Service:
    """Everything a user can ask for, on one database."""

    def __init__(self, storage_url: str, executors: "Mapping[str, ExecutorFactory] | None" = None) -> None:
        """`executors`: what `--executor` can name, in place of ours. The database is opened when it is
        needed, and created for the first job. Raises BadInput where its address is none.
        """
        self._executors = EXECUTORS if executors is None else executors
        with _as_bad_input(StorageUnavailable):
            self._record = Record(storage_url)
        self._driver = Driver(self._record)
        self._forecasts = lru_cache(maxsize=KEPT_JOBS)(forecast_points)
        self._explained = lru_cache(maxsize=KEPT_JOBS)(self._explanation_of)

    def close(self) -> None:
        self._record.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def jobs(self) -> list[Job]:
        """Oldest first. Raises BadInput, as all that follow do, where the database cannot be opened."""
        return self._repository.jobs() if self._record.may_exist else []

    def job(self, name: str) -> Job:
        """Raises NoSuchJob naming the nearest."""
        if not self._record.may_exist:
            raise no_such_job(name, [])
        return self._repository.job(name)

    def trials_done(self, job: Job) -> int:
        """Trials that have been spent of the budget."""
        return sum(trial.outcome is not None and trial.counts for trial in self._record.trials(job))

    def tune(self, request: TuneRequest, listener: Listener) -> Answer:
        """Check a job from end to end, record it and drive it; nothing is recorded when anything is wrong.

        Raises what `run` does, and BadInput, NameInUse, NothingFits, NotHere before the job exists; until
        then no database is created.
        """
        # A cluster that somebody named and that is not there is a wrong name.
        faults = (ExecutionUnavailable,) if request.ray_address else ()
        with _as_bad_input(*faults):
            spec = specify(request)
            problem = work_out(spec, request.settings.keys())
            require_sampler(spec.sampler)
            self._require_free(spec.name)
            executor = self._executor(problem)
        with ExitStack() as stack:
            stack.enter_context(executor)
            job = self._create(problem.spec)
            problem = replace(problem, spec=job.spec)
            lease = stack.enter_context(self._driver.lease(job))
            with self._driver.shown_on_dashboard(problem), stack.pop_all():
                told = teller(self._repository, lease, listener)
                return self._driver.drive(job, problem, lease, executor, told)

    def submit(self, request: TuneRequest, idempotency_key: str | None = None) -> Job:
        """Check a job from end to end and record it for a worker to take.

        The same submission sent again, marked with the same key, gives the job that it made. Raises as `tune`
        does before a job exists, and BadInput for a key that another submission was marked with.
        """
        mark = None if idempotency_key is None else Mark(idempotency_key, request.digest)
        if (earlier := self._submitted_as(mark)) is not None:
            return earlier
        spec = specify(request)
        require_sampler(spec.sampler)
        problem = work_out(spec, request.settings.keys())
        try:
            self._require_free(spec.name)
            return self._create(problem.spec, for_workers=True, mark=mark)
        except NameInUse:
            # The same submission may have been sent twice at once.
            if (earlier := self._submitted_as(mark)) is not None:
                return earlier
            raise

    def cancel(self, name: str) -> Job:
        """Give a job up, whoever drives it; raises WrongStatus for one that has ended."""
        return self._repository.set_status(self.job(name), JobStatus.CANCELLED, "cancelled")

    def requeue(self, name: str) -> Job:
        """Let workers go on with a job that is paused or has failed; raises WrongStatus for another."""
        return self._repository.queue.requeue(self.job(name))

    def run(self, name: str, listener: Listener) -> Answer:
        """Drive a job to its end, from wherever it stands; one that is finished just gives its answer.

        Raises JobBusy when another driver has it and LeaseLost when one takes it over, NothingMeasured
        when no probe came back with a figure, MachineFault where probes cannot run at all.
        KeyboardInterrupt pauses the job.
        """
        job = self.job(name)
        if job.status == JobStatus.FINISHED:
            return self.answer(name)
        if job.status not in RESUMABLE:
            raise BadInput(f"job {name!r} is {job.status}; `autotune show {name}` prints what it found")
        problem = work_out(job.spec)
        with (
            self._driver.shown_on_dashboard(problem),
            self._driver.lease(job) as lease,
            self._executor(problem) as executor,
        ):
            told = teller(self._repository, lease, listener)
            return self._driver.drive(job, problem, lease, executor, told)

    def open(self) -> None:
        """Create the database where it is not there, with the tables of both its owners.

        Raises StorageUnavailable.
        """
        self._record.study_id(UNNAMED)
        self.check()

    def check(self) -> None:
        """Raise StorageUnavailable where the database does not answer."""
        self._record.repository.check()

    def counts(self) -> dict[JobStatus, int]:
        """Jobs by status."""
        return self._repository.summaries.counts()

    def view(self, name: str) -> JobView:
        """A job as the API shows it."""
        job = self.job(name)
        study = self._record.study_id(job.name)
        return job_view(job, None if study is None else f"/dashboard/studies/{study}")

    def summaries(
        self, *, limit: int = 50, before: int | None = None, status: JobStatus | None = None, named: str = ""
    ) -> list[JobSummary]:
        """Jobs as a list shows them, latest first; of those with ids below `before`."""
        if not self._record.may_exist:
            return []
        return self._repository.summaries.latest(limit=limit, before=before, status=status, named=named)

    def events_after(self, job: Job, event_id: int) -> list[JobEvent]:
        """What happened to a job after the event of that id, oldest first."""
        return self._repository.events.after(job, event_id)

    def running_log(self, name: str) -> str:
        """What the probe says that runs for a job; empty where none does."""
        job = self.job(name)
        latest = self._repository.events.latest(job, LOG)
        return str(latest.data["text"]) if latest and job.status == JobStatus.RUNNING else ""

    def trial_log(self, name: str, trial: int) -> str:
        """What is kept of the probes of a trial; raises NotFound where there is none."""
        job = self.job(name)
        results = [m.result for m in self._repository.measurements(job) if m.trial_number == trial]
        if not results:
            raise NotFound(f"job {name!r} has no measurement of a trial {trial}")
        return "\n".join(kept_log(result) for result in results)

    def candidates(self, name: str, limit: int) -> list[ForecastPoint]:
        """Forecasts of what a job may try; of many so many, spread over their speeds."""
        job = self.job(name)
        return self._forecasts(job.id, job.spec.to_json(), limit)

    def role_of(self, token: str) -> Role | None:
        """What a token allows; None for one that is not, or no more, good."""
        found = self._repository.tokens.find(token)
        return None if found is None else found.role

    def create_token(self, name: str, role: Role) -> str:
        """A new token, which nobody can read again. Raises NameInUse."""
        return self._repository.tokens.create(name, role)

    def tokens(self) -> list[TokenRecord]:
        return self._repository.tokens.all() if self._record.may_exist else []

    def revoke_token(self, name: str) -> None:
        """Raises NotFound where there is none of that name."""
        if not (self._record.may_exist and self._repository.tokens.revoke(name)):
            raise NotFound(f"there is no token named {name!r}; `autotune tokens` shows those there are")

    def answer(self, name: str) -> Answer:
        """The answer of a job as it stands; of one that is finished, as it was given."""
        return self._record.answer(self.job(name))

    def explain(self, name: str) -> JobExplanation:
        """Why a job's recommendation is what it is; raises NothingMeasured where there is none."""
        job = self.job(name)
        explanation = self._explained(name, job.updated_at, job.spent_s)
        if explanation is None:
            raise _no_recommendation(job)
        return explanation

    def _explanation_of(self, name: str, updated_at: datetime, spent_s: float) -> JobExplanation | None:
        """Of a job as it stands; whatever is measured of it changes both."""
        return self._record.explanation(self.job(name))

    def save_plots(self, name: str, folder: Path, formats: Sequence[str] = ("html",)) -> list[Path]:
        """Write the plots of a job into `folder`, as html, png or both; raises BadInput where it cannot."""
        return save_plots(self._record.picture(self.job(name)), folder, formats)

    def trials(self, name: str) -> list[TrialRow]:
        job = self.job(name)
        return trial_rows(self._record.trials(job), self._repository.measurements(job), job.spec.usable_bytes)

    def write_table(self, name: str, path: Path) -> None:
        """Write every probe of a job as a table; raises BadInput where `path` cannot be written to."""
        job = self.job(name)
        table = table_of(job.spec, self._record.trials(job), self._repository.measurements(job))
        try:
            path.write_text(table.to_file())
        except OSError as error:
            raise BadInput(f"--table {path} cannot be written: {error.strerror}") from error

    def export(self, name: str, target_format: str, folder: Path) -> list[Path]:
        """Write the recommendation as files of another tool; raises NothingMeasured where there is none."""
        return write(target_format, self._target(name), folder)

    def export_formats(self, answer: Answer) -> list[str]:
        """The formats that its recommendation can be exported to."""
        return [] if answer.recommendation is None else accepting(self._target(answer.job))

    def exports(self, name: str) -> dict[str, list[str]]:
        """The formats that a job's recommendation can be exported to, with the names of their files."""
        try:
            target = self._target(name)
        except NothingMeasured:
            return {}
        return {one: sorted(files(one, target)) for one in accepting(target)}

    def export_files(self, name: str, target_format: str) -> dict[str, str]:
        """Name → text of the files of one format; raises NotFound for one that is none, and NothingMeasured
        where there is nothing to export.
        """
        require_format(target_format)
        return files(target_format, self._target(name))

    def _target(self, name: str) -> Target:
        """What exports are made from; raises NothingMeasured where nothing is recommended."""
        job = self.job(name)
        recommendation = self._record.answer(job).recommendation
        if recommendation is None:
            raise _no_recommendation(job)
        layout = premises(job.spec).layout
        return target_of(job, layout, recommendation, self._repository.measurements(job))

    def _executor(self, problem: Problem) -> Executor:
        return self._executors[problem.spec.executor](problem.layout, problem.spec.ray_address)

    @cached_property
    def _repository(self) -> Repository:
        with _as_bad_input(StorageUnavailable):
            return self._record.repository

    def _require_free(self, name: str) -> None:
        """Raise NameInUse where a job, or a study that is somebody else's, has that name now."""
        if name == UNNAMED or not self._record.may_exist:
            return
        if name in self._repository.summaries.names():
            raise name_in_use(name)
        if self._record.study_id(name) is not None:
            raise NameInUse(
                f"the database has an Optuna study named {name!r} that is no job of autotune's; choose "
                "another name"
            )

    def _submitted_as(self, mark: Mark | None) -> Job | None:
        if mark is None or not self._record.may_exist:
            return None
        return self._repository.submitted_as(mark)

    def _create(self, spec: JobSpec, *, for_workers: bool = False, mark: Mark | None = None) -> Job:
        def create(named: JobSpec) -> Job:
            return self._repository.create_job(named, for_workers=for_workers, mark=mark)

        if spec.name != UNNAMED:
            return create(spec)
        stem = re.sub(r"[^A-Za-z0-9._-]", "-", spec.model.name).strip("-._")[:50] or "job"
        taken = self._repository.summaries.names()
        for number in itertools.count(1):
            name = f"{stem}-{number}"
            if name not in taken and self._record.study_id(name) is None:
                try:
                    return create(spec.model_copy(update={"name": name}))
                except NameInUse:  # somebody else took it a moment before us
                    if self._submitted_as(mark) is not None:
                        raise
        raise AssertionError("there are always more numbers")


def _no_recommendation(job: Job) -> NothingMeasured:
    why = job.reason or f"none yet; `autotune resume {job.name}` goes on"
    return NothingMeasured(f"job {job.name!r} has no recommendation: {why}")


@contextmanager
def _as_bad_input(*faults: type[MachineFault]) -> Iterator[None]:
    """Before there is a job, a machine that is not there is the fault of what was asked for."""
    try:
        yield
    except faults as error:
        raise BadInput(str(error)) from error
