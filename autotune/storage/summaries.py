"""`Summaries`: jobs as a list shows them, without reading the whole of any."""

from sqlalchemy import func, select

from autotune.jobs import JobStatus
from autotune.storage.events import Transaction
from autotune.storage.records import JobSummary
from autotune.storage.tables import JobRow, RecommendationRow


class Summaries:
    """Part of a Repository, whose transactions it uses; each method is one."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def names(self) -> set[str]:
        """Return those of all jobs."""
        with self._transaction() as session:
            return set(session.scalars(select(JobRow.name)))

    def counts(self) -> dict[JobStatus, int]:
        """Return how many jobs there are of each status that some have."""
        with self._transaction() as session:
            found = session.execute(select(JobRow.status, func.count()).group_by(JobRow.status))
            return {JobStatus(status): count for status, count in found}

    def latest(
        self, *, limit: int, before: int | None = None, status: JobStatus | None = None, named: str = ""
    ) -> list[JobSummary]:
        """Return up to `limit` jobs, latest first: those of a status, with `named` in their names, and with
        ids below `before`.
        """
        spec, found = JobRow.spec, RecommendationRow.recommendation["recommendation"]
        query = (
            select(
                JobRow.id,
                JobRow.name,
                JobRow.status,
                JobRow.reason,
                spec["model"]["name"].as_string(),
                spec["gpus"].as_string(),
                spec["ceiling_bytes"].as_float(),
                JobRow.created_at,
                JobRow.updated_at,
                JobRow.spent_s,
                found["tokens_per_second"]["median"].as_float(),
                found["speedup"]["median"].as_float(),
                found["speedup"]["low"].as_float(),
            )
            .outerjoin(RecommendationRow, RecommendationRow.job_id == JobRow.id)
            .order_by(JobRow.id.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(JobRow.id < before)
        if status is not None:
            query = query.where(JobRow.status == status)
        if named:
            query = query.where(JobRow.name.contains(named, autoescape=True))
        with self._transaction() as session:
            return [
                JobSummary(id_, name, JobStatus(state), reason, model, gpus, int(ceiling), *rest)
                for id_, name, state, reason, model, gpus, ceiling, *rest in session.execute(query)
            ]
