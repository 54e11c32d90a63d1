"""Our tables beside Optuna's: jobs with their leases, measurements, recommendations, events, tokens."""

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, always UTC; SQLite alone would forget the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is None:
            return value and value.replace(tzinfo=UTC)
        return value.astimezone(UTC)


class StrictJson(TypeDecorator[dict[str, Any]]):
    """JSON as the standard has it: NaN and infinities, which PostgreSQL refuses, become strings.

    Pydantic reads those strings as the floats they were.
    """

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: dict[str, Any] | None, dialect: Dialect) -> dict[str, Any] | None:
        return None if value is None else json.loads(json.dumps(value), parse_constant=str)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's own way of saying it
        str: Text,
        float: Double,
        datetime: UtcDateTime,
        dict[str, Any]: StrictJson,
    }


class JobRow(Base):
    __tablename__ = "autotune_jobs"
    __table_args__ = (Index("ix_autotune_jobs_idempotency_key", "idempotency_key", unique=True),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    spec: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(index=True)
    reason: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    lease_owner: Mapped[str | None]
    """JSON of an Owner; null where nobody has the lease."""
    lease_token: Mapped[int] = mapped_column(default=0)
    """Grows with each acquisition, so that what an earlier driver sends late is recognised."""
    lease_expires_at: Mapped[datetime | None]
    spent_s: Mapped[float] = mapped_column(default=0.0)
    for_workers: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    """Whether workers may take it, rather than whoever asked for it alone."""
    idempotency_key: Mapped[str | None]
    """What its submission was marked with, so that the same one sent again makes no second job."""
    submission_digest: Mapped[str | None]
    """Of the request that was marked so."""
    waiting_for: Mapped[str | None]
    """Why it could not run when it was last tried, until something is measured for it."""
    waiting_since: Mapped[datetime | None]
    """When that was found first."""
    due_at: Mapped[datetime | None]
    """When it is tried again; null: at once."""


class MeasurementRow(Base):
    __tablename__ = "autotune_measurements"
    __table_args__ = (UniqueConstraint("job_id", "trial_number", "repeat"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("autotune_jobs.id"))
    trial_number: Mapped[int]
    """Of the trial in the job's Optuna study."""
    repeat: Mapped[int]
    """0: the trial's own probe; from 1: its confirmations."""
    key: Mapped[str] = mapped_column(index=True)
    """Hash of all that the measurement depends on, by which other jobs find it."""
    config: Mapped[dict[str, Any]]
    outcome: Mapped[str]
    tokens_per_second: Mapped[float | None]
    peak_bytes: Mapped[int | None] = mapped_column(BigInteger)
    ceiling_bytes: Mapped[int] = mapped_column(BigInteger)
    result: Mapped[dict[str, Any]]
    """The whole ProbeResult; the columns above are for those who query."""
    created_at: Mapped[datetime]
    reused_from: Mapped[str | None]
    """Name of the job whose probe it was, where this one took it over."""


class RecommendationRow(Base):
    __tablename__ = "autotune_recommendations"

    job_id: Mapped[int] = mapped_column(ForeignKey("autotune_jobs.id"), primary_key=True)
    recommendation: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class EventRow(Base):
    __tablename__ = "autotune_events"
    __table_args__ = (Index("ix_autotune_events_job_id", "job_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    """Grows in the order in which things happened to a job."""
    job_id: Mapped[int] = mapped_column(ForeignKey("autotune_jobs.id"))
    kind: Mapped[str]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class TokenRow(Base):
    __tablename__ = "autotune_tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    """Whose it is, or what it is for."""
    digest: Mapped[str] = mapped_column(unique=True)
    """SHA-256; a token is random and long, so that needs no salt."""
    role: Mapped[str]
    created_at: Mapped[datetime]
