"""The use cases, wired once: submit, run, resume, show, export."""

import itertools
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from autotune.errors import (
    AutotuneError,
    BadInput,
    ExecutionUnavailable,
    JobBusy,
    LeaseLost,
    MachineFault,
    NameInUse,
    NothingMeasured,
    StorageUnavailable,
)
from autotune.execution.executor import Executor
from autotune.executors import EXECUTORS, ExecutorFactory
from autotune.export import Target, accepting, write
from autotune.hardware.catalog import require_same
from autotune.jobs import RESUMABLE, Job, JobSpec, JobStatus
from autotune.report.answer import Answer, Recommendation
from autotune.report.explain import explain
from autotune.report.explanation import JobExplanation
from autotune.report.job_plots import PLOTS, Picture, picture, save_plots
from autotune.report.note import note
from autotune.report.recommend import Facts, answer, gather_facts, why_nothing
from autotune.report.table import table_of
from autotune.report.target import target_of
from autotune.report.trials import TrialRow, trial_rows
from autotune.request import UNNAMED, TuneRequest, specify
from autotune.search.cost_model import Knowledge
from autotune.search.events import JobStarted, Listener
from autotune.search.experience import earlier_measurements, knowledge_of
from autotune.search.history import TrialRecord
from autotune.search.keys import measurement_key
from autotune.search.loop import SearchLoop
from autotune.search.measuring import Measuring
from autotune.search.problem import Premises, Problem, premises, probe_request, work_out
from autotune.search.reuse import known_to
from autotune.search.samplers import require_sampler
from autotune.search.stopping import Budget
from autotune.search.study import SearchStudy, recorded_trials, study_names
from autotune.storage.backend import may_exist
from autotune.storage.engine import optuna_storage
from autotune.storage.faults import mapped_errors
from autotune.storage.owner import Owner
from autotune.storage.records import Lease
from autotune.storage.repository import Repository, name_in_use, no_such_job
from trials.contract.config import TrainingConfig
from trials.contract.messages import ProbeResult

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

LEASE_S = 120.0
"""A driver on another machine that has not renewed its lease for so long counts as dead."""


class Service:
    """Everything a user can ask for, on one database."""

    def __init__(self, storage_url: str, executors: "Mapping[str, ExecutorFactory] | None" = None) -> None:
        """`executors`: what `--executor` can name, in place of ours. The database is opened when it is
        needed, and created for the first job. Raises BadInput where its address is none.
        """
        self._url = storage_url
        self._executors = EXECUTORS if executors is None else executors
        with _as_bad_input(StorageUnavailable):
            may_exist(storage_url)

    def close(self) -> None:
        if "_repository" in vars(self):
            self._repository.close()
        if "_optuna" in vars(self):
            self._optuna.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def jobs(self) -> list[Job]:
        """Oldest first. Raises BadInput, as all that follow do, where the database cannot be opened."""
        return self._repository.jobs() if may_exist(self._url) else []

    def job(self, name: str) -> Job:
        """Raises NoSuchJob naming the nearest."""
        if not may_exist(self._url):
            raise no_such_job(name, [])
        return self._repository.job(name)

    def trials_done(self, job: Job) -> int:
        """Trials that have been spent of the budget."""
        return sum(trial.outcome is not None and trial.counts for trial in self._trials(job))

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
            lease = stack.enter_context(self._lease(job))
            with self._shown_on_dashboard(problem), stack.pop_all():
                return self._drive(job, problem, lease, executor, listener)

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
            self._shown_on_dashboard(problem),
            self._lease(job) as lease,
            self._executor(problem) as executor,
        ):
            return self._drive(job, problem, lease, executor, listener)

    def answer(self, name: str) -> Answer:
        """The answer of a job as it stands; of one that is finished, as it was given."""
        job = self.job(name)
        if saved := self._repository.recommendation(job):
            return Answer.parse({**saved, "status": job.status, "reason": job.reason})
        return answer(self._facts(job, premises(job.spec)))

    def explain(self, name: str) -> JobExplanation:
        """Why a job's recommendation is what it is; raises NothingMeasured where there is none."""
        job = self.job(name)
        explanation = self._explanation(self._facts(job, premises(job.spec)), self.answer(name))
        if explanation is None:
            raise _no_recommendation(job)
        return explanation

    def save_plots(self, name: str, folder: Path, formats: Sequence[str] = ("html",)) -> list[Path]:
        """Write the plots of a job into `folder`, as html, png or both; raises BadInput where it cannot."""
        job = self.job(name)
        facts = self._facts(job, premises(job.spec))
        return save_plots(self._picture(facts, self.answer(name)), folder, formats)

    def trials(self, name: str) -> list[TrialRow]:
        job = self.job(name)
        return trial_rows(self._trials(job), self._repository.measurements(job))

    def write_table(self, name: str, path: Path) -> None:
        """Write every probe of a job as a table; raises BadInput where `path` cannot be written to."""
        job = self.job(name)
        table = table_of(job.spec, self._trials(job), self._repository.measurements(job))
        try:
            path.write_text(table.to_file())
        except OSError as error:
            raise BadInput(f"--table {path} cannot be written: {error.strerror}") from error

    def export(self, name: str, target_format: str, folder: Path) -> list[Path]:
        """Write the recommendation as files of another tool; raises NothingMeasured where there is none."""
        job = self.job(name)
        recommendation = self.answer(name).recommendation
        if recommendation is None:
            raise _no_recommendation(job)
        return write(target_format, self._target(job, recommendation), folder)

    def export_formats(self, answer: Answer) -> list[str]:
        """The formats that its recommendation can be exported to."""
        if answer.recommendation is None:
            return []
        return accepting(self._target(self.job(answer.job), answer.recommendation))

    def _target(self, job: Job, recommendation: Recommendation) -> Target:
        layout = premises(job.spec).layout
        return target_of(job, layout, recommendation, self._repository.measurements(job))

    def _executor(self, problem: Problem) -> Executor:
        return self._executors[problem.spec.executor](problem.layout, problem.spec.ray_address)

    @cached_property
    def _repository(self) -> Repository:
        """Opened, and created where it is not there, with the first use."""
        with _as_bad_input(StorageUnavailable):
            return Repository(self._url)

    def _require_free(self, name: str) -> None:
        """Raise NameInUse where a job, or a study that is somebody else's, has that name now."""
        if any(job.name == name for job in self.jobs()):
            raise name_in_use(name)
        if name != UNNAMED and may_exist(self._url) and name in self._studies():
            raise NameInUse(
                f"the database has an Optuna study named {name!r} that is no job of autotune's; choose "
                "another name"
            )

    def _create(self, spec: JobSpec) -> Job:
        if spec.name != UNNAMED:
            return self._repository.create_job(spec)
        stem = re.sub(r"[^A-Za-z0-9._-]", "-", spec.model.name).strip("-._")[:50] or "job"
        taken = {job.name for job in self._repository.jobs()} | self._studies()
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
            found = known_to(job, repository, executor)
            known = {c: one for c, one in found.items() if problem.candidates.index(c) is not None}
            with self._study(problem, knowledge_of(job, problem, repository, known)) as study:
                loop = SearchLoop(
                    problem.candidates,
                    problem.baseline,
                    study,
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
            facts = self._facts(final, problem)
            result = answer(facts)
            if result.recommendation is None:
                raise why_nothing(facts, problem.candidates)
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
    def _shown_on_dashboard(self, problem: Problem) -> Iterator[None]:
        """Let the Optuna dashboard show what a job came to, however it ended, once its probes have ended."""
        try:
            yield
        except (
            LeaseLost,
            JobBusy,
            StorageUnavailable,
        ):  # it is another driver's, or there is nothing to show
            raise
        except BaseException:
            with suppress(KeyboardInterrupt):  # whoever is in a hurry need not wait, and learns what happened
                self._show_on_dashboard(problem)
            raise
        else:
            self._show_on_dashboard(problem)

    def _show_on_dashboard(self, problem: Problem) -> None:
        """All of it is recorded by now, so a page that cannot be drawn takes nothing away."""
        name = problem.spec.name
        try:
            if name not in self._studies():
                return
            facts = self._facts(self.job(name), problem)
            result = answer(facts)
            shown = self._picture(facts, result)
            figures = {plot: draw(shown) for plot, draw in PLOTS.items()}
            with self._study(problem, Knowledge()) as study:
                study.publish(note(result, shown.explanation), figures)
        except Exception as error:
            logging.getLogger(__name__).warning("the dashboard lacks this job's plots and note: %s", error)

    @contextmanager
    def _study(self, problem: Problem, knowledge: Knowledge) -> Iterator[SearchStudy]:
        """The study of a job; what its database does meanwhile becomes StorageUnavailable."""
        spec = problem.spec
        with mapped_errors(self._optuna.engine.url):
            yield SearchStudy(
                self._optuna,
                spec.name,
                problem.candidates,
                problem.baseline,
                spec.sampler,
                spec.seed,
                knowledge,
            )

    def _studies(self) -> set[str]:
        """Names of all studies in the database, ours or not."""
        with mapped_errors(self._optuna.engine.url):
            return study_names(self._optuna)

    def _trials(self, job: Job) -> list[TrialRecord]:
        """From the record alone: nothing that is worked out today has a say in it."""
        with mapped_errors(self._optuna.engine.url):
            return recorded_trials(self._optuna, job.name)

    def _explanation(self, facts: Facts, answer: Answer) -> JobExplanation | None:
        return explain(facts, answer, earlier_measurements(facts.job, facts.premises.group, self._repository))

    def _picture(self, facts: Facts, answer: Answer) -> Picture:
        return picture(facts, answer, self._explanation(facts, answer))

    def _facts(self, job: Job, premises: Premises) -> Facts:
        return gather_facts(job, premises, self._trials(job), self._repository.measurements(job))


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


class _SpentClock:
    """Adds the wall time since its last tick to the job."""

    def __init__(self, add: Callable[[float], None]) -> None:
        self._add = add
        self._last = time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        self._add(now - self._last)
        self._last = now
