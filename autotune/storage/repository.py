"""`Repository`: the record of jobs, their leases, measurements and recommendations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from autotune.errors import BadInput, JobBusy, NameInUse, NoSuchJob
from autotune.jobs import Job, JobSpec, JobStatus, check_transition
from autotune.storage import leases
from autotune.storage.engine import create_engine
from autotune.storage.events import Events, happened
from autotune.storage.faults import mapped_errors
from autotune.storage.migrations import migrate
from autotune.storage.owner import Owner
from autotune.storage.queue import Queue
from autotune.storage.reading import read_job, read_measurement
from autotune.storage.records import Lease, Mark, Measurement
from autotune.storage.summaries import Summaries
from autotune.storage.tables import JobRow, MeasurementRow, RecommendationRow
from autotune.storage.tokens import Tokens
from trials.contract.config import TrainingConfig
from trials.contract.message import nearest
from trials.contract.messages import ProbeResult
from trials.contract.outcome import Outcome


def utc_now() -> datetime:
    return datetime.now(UTC)


class Repository:
    """The record in one database, brought to the present schema when opened.

    Each method is one transaction: it has happened wholly when it returns, and not at all when it
    raises. Safe in threads and processes at once. All raise StorageUnavailable where the database
    cannot be used.

    Who drives a job holds its lease; what is written under a lease is refused with LeaseLost once
    another driver has one. That is decided by the lease's token, never by time: clocks that differ
    between machines can hand a job over early, but not let two drivers write.
    """

    def __init__(self, url: str, clock: Callable[[], datetime] = utc_now) -> None:
        """Open the database at `url`, a SQLAlchemy URL of SQLite or PostgreSQL."""
        self._engine = create_engine(url)
        self._clock = clock
        self.events = Events(self._transaction, clock)
        self.queue = Queue(self._transaction, clock)
        self.tokens = Tokens(self._transaction, clock)
        self.summaries = Summaries(self._transaction)
        try:
            migrate(self._engine)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Jobs

    def create_job(self, spec: JobSpec, *, for_workers: bool = False, mark: Mark | None = None) -> Job:
        """Record a queued job; raises NameInUse where there is one of that name, or of that mark's key.

        `for_workers`: whether its queue hands it out.
        """
        now = self._clock()
        row = JobRow(
            name=spec.name,
            spec=spec.model_dump(mode="json"),
            status=JobStatus.QUEUED,
            created_at=now,
            updated_at=now,
            for_workers=for_workers,
            idempotency_key=mark and mark.key,
            submission_digest=mark and mark.digest,
        )
        with self._transaction() as session:
            session.add(row)
            try:
                session.flush()
            except IntegrityError as error:
                raise name_in_use(spec.name) from error
            happened(session, row)
            return self._job(row)

    def submitted_as(self, mark: Mark) -> Job | None:
        """Return the job whose submission was marked so; raises BadInput where another had that key."""
        with self._transaction() as session:
            row = session.scalar(select(JobRow).where(JobRow.idempotency_key == mark.key))
            if row is not None and row.submission_digest not in (None, mark.digest):
                raise BadInput(
                    f"the idempotency key {mark.key!r} marked another submission, of job {row.name!r}; "
                    "choose a new key for a new job"
                )
            return None if row is None else self._job(row)

    def job(self, name: str) -> Job:
        """Return the job of that name; raises NoSuchJob, which names the nearest."""
        with self._transaction() as session:
            row = session.scalar(select(JobRow).where(JobRow.name == name))
            if row is None:
                names = list(session.scalars(select(JobRow.name).order_by(JobRow.id)))
                raise no_such_job(name, names)
            return self._job(row)

    def jobs(self) -> list[Job]:
        """Return all jobs, oldest first."""
        with self._transaction() as session:
            return [self._job(row) for row in session.scalars(select(JobRow).order_by(JobRow.id))]

    def check(self) -> None:
        """Do nothing, in a transaction."""
        with self._transaction() as session:
            session.execute(select(1))

    def set_status(self, target: Lease | Job, status: JobStatus, reason: str | None = None) -> Job:
        """Change the status of a job; raises BadInput where the one may not follow the other.

        With a lease, raises LeaseLost where it is not the latest. With a job alone, whoever drives it
        loses the lease: so anybody can cancel a job, and its driver learns it at its next write.
        """
        with self._transaction() as session:
            if isinstance(target, Lease):
                row = leases.driven(session, target, self._clock())
            else:
                row = leases.locked(session, target.id, self._clock())
                leases.clear(row)
                row.lease_token += 1
            check_transition(JobStatus(row.status), status)
            row.status = status
            row.reason = reason and reason.replace("\0", "")  # PostgreSQL refuses it in text
            happened(session, row)
            return self._job(row)

    def add_spent(self, lease: Lease, seconds: float) -> None:
        """Add to the wall seconds spent on a job; raises LeaseLost."""
        with self._transaction() as session:
            leases.driven(session, lease, self._clock()).spent_s += seconds

    # Leases

    def acquire_lease(self, job: Job, owner: Owner, ttl_s: float) -> Lease:
        """Make `owner` the driver of a job for `ttl_s` seconds, to be renewed before they end.

        Of several who try at once, one gets it. A lease that lapsed, or whose owner was a process of
        this machine that is gone, is taken over; else raises JobBusy, which says who drives the job.
        """
        with self._transaction() as session:
            row = leases.locked(session, job.id, self._clock())
            holder = leases.holder(row, self._clock())
            if holder is not None:
                raise JobBusy(
                    f"job {row.name!r} is driven by {holder} until {row.lease_expires_at:%Y-%m-%d %H:%M:%S} "
                    "UTC or longer; stop that process first, or wait for it to end"
                )
            return leases.give(row, owner, ttl_s)

    def renew(self, lease: Lease) -> Lease:
        """Extend a lease to its `ttl_s` from now, even lapsed where nobody took it; raises LeaseLost."""
        with self._transaction() as session:
            row = leases.driven(session, lease, self._clock())
            row.lease_expires_at = expires_at = row.updated_at + timedelta(seconds=lease.ttl_s)
            return Lease(row.id, lease.owner, lease.token, lease.ttl_s, expires_at)

    def release(self, lease: Lease) -> None:
        """Give a lease back, so that another driver need not wait; raises LeaseLost."""
        with self._transaction() as session:
            leases.clear(leases.driven(session, lease, self._clock()))

    # Measurements and recommendations

    def commit_measurement(
        self,
        lease: Lease,
        trial_number: int,
        repeat: int,
        *,
        key: str,
        config: TrainingConfig,
        result: ProbeResult,
        reused_from: str | None = None,
    ) -> Measurement:
        """Keep what became of a probe, be it another job's; raises LeaseLost.

        The first result of a trial's repeat is the one that stays: a second commit changes nothing and
        returns the first. So a driver that does not know whether it committed may commit again.
        """
        with self._transaction() as session:
            job = leases.driven(session, lease, self._clock())
            kept = session.scalar(
                select(MeasurementRow).where(
                    MeasurementRow.job_id == job.id,
                    MeasurementRow.trial_number == trial_number,
                    MeasurementRow.repeat == repeat,
                )
            )
            if kept is not None:
                return read_measurement(kept)
            speed = result.tokens_per_second
            row = MeasurementRow(
                job_id=job.id,
                trial_number=trial_number,
                repeat=repeat,
                key=key,
                config=config.model_dump(mode="json"),
                outcome=result.outcome,
                tokens_per_second=None if speed is None else speed.median,
                peak_bytes=result.peak_bytes,
                ceiling_bytes=job.spec["ceiling_bytes"],
                result=result.model_dump(mode="json"),
                created_at=job.updated_at,
                reused_from=reused_from,
            )
            session.add(row)
            job.waiting_for = None
            return read_measurement(row)

    def measurements(self, job: Job) -> list[Measurement]:
        """Return the measurements of a job, by trial and repeat."""
        query = select(MeasurementRow).where(MeasurementRow.job_id == job.id)
        with self._transaction() as session:
            rows = session.scalars(query.order_by(MeasurementRow.trial_number, MeasurementRow.repeat))
            return [read_measurement(row) for row in rows]

    def probes_like(self, key: str, besides: Job) -> list[tuple[str, Measurement]]:
        """Return the trials' own probes of other jobs whose keys begin with `key`, with the names of their
        jobs, latest first.
        """
        query = (
            select(MeasurementRow, JobRow.name)
            .join(JobRow, JobRow.id == MeasurementRow.job_id)
            .where(
                MeasurementRow.key.startswith(key),
                MeasurementRow.repeat == 0,
                MeasurementRow.reused_from.is_(None),
                MeasurementRow.job_id != besides.id,
            )
            .order_by(MeasurementRow.id.desc())
        )
        with self._transaction() as session:
            return [(name, read_measurement(row)) for row, name in session.execute(query)]

    def has_measurements(self, besides: Job) -> bool:
        """Whether any other job has any."""
        query = select(MeasurementRow.id).where(MeasurementRow.job_id != besides.id).limit(1)
        with self._transaction() as session:
            return session.scalar(query) is not None

    def measured_on(self, device_name: str, limit: int) -> list[tuple[Job, Measurement]]:
        """Return the latest measurements with figures, latest first, of jobs on devices of that name."""
        name = JobRow.spec["inventory"]["groups"][0]["gpu"]["name"].as_string()
        query = (
            select(MeasurementRow, JobRow)
            .join(JobRow, JobRow.id == MeasurementRow.job_id)
            .where(
                name == device_name,
                MeasurementRow.outcome == Outcome.MEASURED,
                MeasurementRow.reused_from.is_(None),
            )
            .order_by(MeasurementRow.id.desc())
            .limit(limit)
        )
        with self._transaction() as session:
            jobs: dict[int, Job] = {}
            found = []
            for measurement, job in session.execute(query):
                if job.id not in jobs:
                    jobs[job.id] = self._job(job)
                found.append((jobs[job.id], read_measurement(measurement)))
            return found

    def save_recommendation(self, lease: Lease, recommendation: dict[str, Any]) -> None:
        """Keep a job's recommendation in place of an earlier one; raises LeaseLost."""
        with self._transaction() as session:
            job = leases.driven(session, lease, self._clock())
            session.merge(
                RecommendationRow(job_id=job.id, recommendation=recommendation, created_at=job.updated_at)
            )

    def recommendation(self, job: Job) -> dict[str, Any] | None:
        """Return a job's recommendation, or None before there is one."""
        with self._transaction() as session:
            row = session.get(RecommendationRow, job.id)
            return None if row is None else row.recommendation

    # How

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        with mapped_errors(self._engine.url), Session(self._engine) as session, session.begin():
            yield session

    def _job(self, row: JobRow) -> Job:
        return read_job(row, leases.holder(row, self._clock()))


def no_such_job(name: str, names: list[str]) -> NoSuchJob:
    """`names` are those of the jobs that there are."""
    hint = nearest(name, names) if names else "; this database has no jobs yet"
    return NoSuchJob(f"there is no job named {name!r}{hint}")


def name_in_use(name: str) -> NameInUse:
    return NameInUse(
        f"there is a job named {name!r} already; choose another name, or go on with that one: "
        f"autotune resume {name}"
    )
