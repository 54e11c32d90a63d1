"""`Queue`: the jobs that wait for workers."""

import math
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from autotune.errors import StorageUnavailable, WrongStatus
from autotune.jobs import Job, JobStatus
from autotune.storage import leases
from autotune.storage.events import Transaction, happened
from autotune.storage.owner import Owner
from autotune.storage.reading import read_job
from autotune.storage.records import Lease
from autotune.storage.tables import JobRow

LEAST_PAUSE_S, MOST_PAUSE_S = 5.0, 120.0
"""Until a job that could not run is tried again."""


class Queue:
    """Part of a Repository, whose transactions it uses; each method is one."""

    def __init__(self, transaction: Transaction, clock: Callable[[], datetime]) -> None:
        self._transaction = transaction
        self._clock = clock

    def claim(self, owner: Owner, ttl_s: float) -> tuple[Job, Lease] | None:
        """Make `owner` the driver of a job that waits for a worker, or whose own is gone.

        What has waited longest goes first: a job that found its devices taken holds up no other. Of several
        who ask at once, each gets another. None where no job waits. Who asks drives none, so what is still
        `owner`'s is a job that could not be given back. A job that cannot be read has failed.
        """
        with self._transaction() as session:
            for row in self._waiting(session, owner):
                row.updated_at = self._clock()
                try:
                    return read_job(row, owner), leases.give(row, owner, ttl_s)
                except StorageUnavailable as error:
                    row.status, row.reason = JobStatus.FAILED, str(error)
                    happened(session, row)
        return None

    def put_back(self, lease: Lease, why: str, at_most_s: float = math.inf) -> None:
        """Let a job wait that cannot run now; raises LeaseLost.

        The longer it has waited for the same, the longer until it is tried again; when that has been
        `at_most_s`, it has failed.
        """
        with self._transaction() as session:
            now, why = self._clock(), why.replace("\0", "")  # PostgreSQL refuses it in text
            row = leases.driven(session, lease, now)
            if row.waiting_for != why or row.waiting_since is None:
                row.waiting_for, row.waiting_since = why, now
            waited_s = (now - row.waiting_since).total_seconds()
            row.due_at = now + timedelta(seconds=min(max(waited_s, LEAST_PAUSE_S), MOST_PAUSE_S))
            before = row.status, row.reason
            if waited_s < at_most_s:
                row.status, row.reason = JobStatus.QUEUED, f"{why}; it is tried again"
            else:
                row.status, row.reason = JobStatus.FAILED, why
            if (row.status, row.reason) != before:
                happened(session, row)

    def requeue(self, job: Job) -> Job:
        """Let workers go on with a job that is paused or has failed; raises WrongStatus for another."""
        with self._transaction() as session:
            row = leases.locked(session, job.id, self._clock())
            if row.status not in (JobStatus.PAUSED, JobStatus.FAILED):
                raise WrongStatus(
                    f"job {row.name!r} is {row.status}; one that is paused or has failed can be resumed"
                )
            row.status, row.reason, row.for_workers = JobStatus.QUEUED, None, True
            row.waiting_for = row.due_at = None
            happened(session, row)
            return read_job(row, leases.holder(row, self._clock()))

    def _waiting(self, session: Session, owner: Owner) -> Iterator[JobRow]:
        """Rows that `owner` may take, for writing, those that have waited longest first.

        They are locked one by one: whoever asks at the same time passes over what is locked.
        """
        is_due = or_(JobRow.due_at.is_(None), JobRow.due_at <= self._clock())
        first = select(JobRow).where(JobRow.for_workers, is_due).order_by(JobRow.updated_at, JobRow.id)
        first = first.limit(1).with_for_update(skip_locked=True)
        seen: list[int] = []
        for status in (JobStatus.QUEUED, JobStatus.RUNNING):
            while row := session.scalar(first.where(JobRow.status == status, JobRow.id.not_in(seen))):
                seen.append(row.id)
                if self._is_free(row, owner):
                    yield row

    def _is_free(self, row: JobRow, owner: Owner) -> bool:
        # A job that was given back a moment ago still has probes to end, and a holder.
        try:
            return leases.holder(row, self._clock()) in (None, owner)
        except StorageUnavailable:  # another version's
            return False
