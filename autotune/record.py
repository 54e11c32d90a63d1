"""`Record`: what a database says of jobs, from both of its owners, Optuna's study and our tables."""

from functools import cached_property
from typing import TYPE_CHECKING

from autotune.jobs import Job
from autotune.report.answer import Answer
from autotune.report.explain import explain
from autotune.report.explanation import JobExplanation
from autotune.report.job_plots import Picture, picture
from autotune.report.recommend import Facts, answer, gather_facts
from autotune.search.cost_model import Knowledge
from autotune.search.experience import earlier_measurements
from autotune.search.history import TrialRecord
from autotune.search.problem import Problem, premises
from autotune.search.study import SearchStudy, recorded_trials, study_id
from autotune.storage.backend import may_exist
from autotune.storage.engine import optuna_storage, patient_storage
from autotune.storage.faults import mapped_errors
from autotune.storage.patience import patient
from autotune.storage.repository import Repository

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


class Record:
    """One database; all raise StorageUnavailable where it cannot be used."""

    def __init__(self, url: str) -> None:
        """It is opened when it is needed, and created for the first job."""
        self._url = url
        may_exist(url)

    def close(self) -> None:
        if "repository" in vars(self):
            self.repository.close()
        if "_optuna" in vars(self):
            self._optuna.engine.dispose()

    @property
    def may_exist(self) -> bool:
        """False for a file that opening would create."""
        return may_exist(self._url)

    @cached_property
    def repository(self) -> Repository:
        """Opened, and created where it is not there, with the first use."""
        return Repository(self._url)

    @property
    def patient_repository(self) -> Repository:
        """The same for who drives a job, and can wait for a database that is away."""
        return patient(self.repository)

    @cached_property
    def _optuna(self) -> "RDBStorage":
        """Opened with the first study, for importing Optuna takes longer than most commands."""
        return optuna_storage(self._url)

    def study(self, problem: Problem, knowledge: Knowledge) -> SearchStudy:
        """The study of a job for who drives it, and can wait for a database that is away."""
        spec = problem.spec
        return SearchStudy(
            patient_storage(self._optuna),
            spec.name,
            problem.candidates,
            problem.baseline,
            spec.sampler,
            spec.seed,
            knowledge,
        )

    def study_id(self, name: str) -> int | None:
        """What the Optuna dashboard calls a study, a job's or another; None where there is none."""
        with mapped_errors(self._optuna.engine.url):
            return study_id(self._optuna, name)

    def trials(self, job: Job) -> list[TrialRecord]:
        """As recorded: nothing that is worked out today has a say in it."""
        with mapped_errors(self._optuna.engine.url):
            return recorded_trials(self._optuna, job.name)

    def facts(self, job: Job) -> Facts:
        return gather_facts(job, premises(job.spec), self.trials(job), self.repository.measurements(job))

    def answer(self, job: Job) -> Answer:
        """As it stands; of a job that is finished, as it was given."""
        if saved := self.repository.recommendation(job):
            return Answer.parse({**saved, "status": job.status, "reason": job.reason})
        return answer(self.facts(job))

    def explanation(self, job: Job) -> JobExplanation | None:
        """Of its answer; None where that recommends nothing."""
        return self._explanation(self.facts(job), self.answer(job))

    def picture(self, job: Job) -> Picture:
        """What there is to draw of it."""
        facts, found = self.facts(job), self.answer(job)
        return picture(facts, found, self._explanation(facts, found))

    def _explanation(self, facts: Facts, found: Answer) -> JobExplanation | None:
        return explain(facts, found, earlier_measurements(facts.job, facts.premises.group, self.repository))
