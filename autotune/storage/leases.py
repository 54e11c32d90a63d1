"""The lease on a job's row: who holds it, and who may write under it."""

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from autotune.errors import LeaseLost
from autotune.storage.owner import Owner
from autotune.storage.reading import read_owner
from autotune.storage.records import Lease
from autotune.storage.tables import JobRow


def locked(session: Session, job_id: int, now: datetime) -> JobRow:
    """Return a job's row for writing: others who want to write it wait for this transaction's end."""
    row = session.get_one(JobRow, job_id, with_for_update=True)
    row.updated_at = now
    return row


def driven(session: Session, lease: Lease, now: datetime) -> JobRow:
    """Return the job's row for writing by its driver; raises LeaseLost."""
    row = locked(session, lease.job_id, now)
    if row.lease_token != lease.token or row.lease_owner is None:
        living = holder(row, now)
        who = "nobody" if living is None else str(living)
        raise LeaseLost(
            f"this process drives job {row.name!r} no more: it is {row.status} and driven by {who}; "
            "what was committed before is kept"
        )
    return row


def holder(row: JobRow, now: datetime) -> Owner | None:
    """Return the living driver of a job."""
    if row.lease_owner is None or row.lease_expires_at is None or row.lease_expires_at <= now:
        return None
    owner = read_owner(row.lease_owner)
    return None if owner.is_gone() else owner


def give(row: JobRow, owner: Owner, ttl_s: float) -> Lease:
    """Give the lease of a row that is locked and that nobody drives."""
    row.lease_owner = owner.to_json()
    row.lease_token += 1
    row.lease_expires_at = expires_at = row.updated_at + timedelta(seconds=ttl_s)
    return Lease(row.id, owner, row.lease_token, ttl_s, expires_at)


def clear(row: JobRow) -> None:
    row.lease_owner = None
    row.lease_expires_at = None
