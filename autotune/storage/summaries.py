"""Jobs as a list shows them, without reading the whole of any."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from autotune.jobs import JobStatus
from autotune.storage.records import JobSummary
from autotune.storage.tables import JobRow, RecommendationRow


def select_summaries(
    session: Session, *, limit: int, before: int | None, status: JobStatus | None, named: str
) -> list[JobSummary]:
    """Up to `limit` jobs, latest first: those of a status, with `named` in their names, and with ids below
    `before`.
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
    return [
        JobSummary(id_, name, JobStatus(state), reason, model, gpus, int(ceiling), *rest)
        for id_, name, state, reason, model, gpus, ceiling, *rest in session.execute(query)
    ]
