"""What the repository takes and hands out besides jobs: leases, marks and measurements."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from autotune.jobs import JobStatus
from autotune.storage.owner import Owner
from trials.contract.config import TrainingConfig
from trials.contract.messages import ProbeResult


@dataclass(frozen=True)
class Mark:
    """What a submission is marked with, so that the same one sent again makes no second job."""

    key: str
    digest: str
    """Of the request."""


@dataclass(frozen=True)
class Lease:
    """The right to drive a job, until `expires_at` unless renewed."""

    job_id: int
    owner: Owner
    token: int
    """Fencing token: a later lease of the same job has a larger one, and only the latest may write."""
    ttl_s: float
    expires_at: datetime


@dataclass(frozen=True)
class JobSummary:
    """A job as a list shows it."""

    id: int
    name: str
    status: JobStatus
    reason: str | None
    model: str
    gpus: str
    ceiling_bytes: int
    created_at: datetime
    updated_at: datetime
    spent_s: float
    tokens_per_second: float | None
    """Of its recommendation, once it has one."""
    speedup: float | None
    speedup_low: float | None = None
    """The low end of its 95 % interval: a gain that may be none ends at 1 or below."""


@dataclass(frozen=True)
class JobEvent:
    """One thing that happened to a job."""

    id: int
    """Larger than those of all that happened to it before."""
    kind: str
    data: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class Measurement:
    """What became of one probe of a trial, as committed."""

    job_id: int
    trial_number: int
    repeat: int
    """0: the trial's own probe; from 1: its confirmations."""
    key: str
    config: TrainingConfig
    result: ProbeResult
    ceiling_bytes: int
    """Ceiling of the job it was committed for."""
    created_at: datetime
    reused_from: str | None = None
    """The job whose probe it was, where this one's did not have to run."""
