"""`Events`: what happened to jobs, in order, for those who watch."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from autotune.jobs import Job
from autotune.storage.leases import driven
from autotune.storage.records import JobEvent, Lease
from autotune.storage.tables import EventRow, JobRow

Transaction = Callable[[], AbstractContextManager[Session]]

STATUS = "status"
"""Kind of the event of a new status."""


def happened(session: Session, row: JobRow) -> None:
    """Tell those who watch of the new status of a job whose row is locked, or new, with whatever else this
    transaction does.
    """
    session.flush()  # which gives a new row its id
    data = {"status": row.status, "reason": row.reason}
    session.add(EventRow(job_id=row.id, kind=STATUS, data=data, created_at=row.updated_at))


class Events:
    """Part of a Repository, whose transactions it uses; each method is one."""

    def __init__(self, transaction: Transaction, clock: Callable[[], datetime]) -> None:
        self._transaction = transaction
        self._clock = clock

    def append(self, lease: Lease, kind: str, data: dict[str, Any]) -> None:
        """Tell of a job, as its driver; raises LeaseLost."""
        with self._transaction() as session:
            self._add(session, lease, kind, data)

    def after(self, job: Job, event_id: int = 0, limit: int = 500) -> list[JobEvent]:
        """Return what happened to a job after the event of that id, oldest first."""
        query = (
            select(EventRow)
            .where(EventRow.job_id == job.id, EventRow.id > event_id)
            .order_by(EventRow.id)
            .limit(limit)
        )
        with self._transaction() as session:
            rows = session.scalars(query)
            return [JobEvent(row.id, row.kind, row.data, row.created_at) for row in rows]

    def replace(self, lease: Lease, kind: str, data: dict[str, Any]) -> None:
        """Append, in place of all of that kind that the job has had; raises LeaseLost."""
        with self._transaction() as session:
            old = delete(EventRow).where(EventRow.job_id == lease.job_id, EventRow.kind == kind)
            session.execute(old.where(EventRow.id < self._add(session, lease, kind, data)))

    def latest(self, job: Job, kind: str) -> JobEvent | None:
        """Return the last event of that kind."""
        query = (
            select(EventRow)
            .where(EventRow.job_id == job.id, EventRow.kind == kind)
            .order_by(EventRow.id.desc())
            .limit(1)
        )
        with self._transaction() as session:
            row = session.scalar(query)
            return None if row is None else JobEvent(row.id, row.kind, row.data, row.created_at)

    def last_id(self, job: Job) -> int:
        """Return the id of the latest, 0 where nothing happened yet."""
        with self._transaction() as session:
            return session.scalar(select(func.max(EventRow.id)).where(EventRow.job_id == job.id)) or 0

    def _add(self, session: Session, lease: Lease, kind: str, data: dict[str, Any]) -> int:
        # With the job's row locked, as by all that tells of a job: ids are given in the order in which they
        # are seen, so that whoever asks for what came after one misses none.
        driven(session, lease, now := self._clock())
        row = EventRow(job_id=lease.job_id, kind=kind, data=data, created_at=now)
        session.add(row)
        session.flush()
        return row.id
