"""What the service keeps: jobs that workers may take, what happened to them, and who may ask for what."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column(
        "autotune_jobs", sa.Column("for_workers", sa.Boolean, nullable=False, server_default=sa.false())
    )
    op.add_column("autotune_jobs", sa.Column("idempotency_key", sa.Text))
    op.create_index("ix_autotune_jobs_idempotency_key", "autotune_jobs", ["idempotency_key"], unique=True)
    op.create_index("ix_autotune_jobs_status", "autotune_jobs", ["status"])
    op.create_table(
        "autotune_events",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("job_id", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_autotune_events"),
        sa.ForeignKeyConstraint(["job_id"], ["autotune_jobs.id"], name="fk_autotune_events_job_id"),
    )
    op.create_index("ix_autotune_events_job_id", "autotune_events", ["job_id", "id"])
    op.create_table(
        "autotune_tokens",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_autotune_tokens"),
        sa.UniqueConstraint("name", name="uq_autotune_tokens_name"),
        sa.UniqueConstraint("digest", name="uq_autotune_tokens_digest"),
    )
