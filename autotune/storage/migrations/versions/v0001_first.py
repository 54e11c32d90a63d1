"""Jobs with their leases, measurements, recommendations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "autotune_jobs",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_owner", sa.Text),
        sa.Column("lease_token", sa.Integer, nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True)),
        sa.Column("spent_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_autotune_jobs"),
        sa.UniqueConstraint("name", name="uq_autotune_jobs_name"),
    )
    op.create_table(
        "autotune_measurements",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("job_id", sa.Integer, nullable=False),
        sa.Column("trial_number", sa.Integer, nullable=False),
        sa.Column("repeat", sa.Integer, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("tokens_per_second", sa.Double),
        sa.Column("peak_bytes", sa.BigInteger),
        sa.Column("ceiling_bytes", sa.BigInteger, nullable=False),
        sa.Column("result", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_autotune_measurements"),
        sa.ForeignKeyConstraint(["job_id"], ["autotune_jobs.id"], name="fk_autotune_measurements_job_id"),
        sa.UniqueConstraint(
            "job_id", "trial_number", "repeat", name="uq_autotune_measurements_job_id_trial_number_repeat"
        ),
    )
    op.create_index("ix_autotune_measurements_key", "autotune_measurements", ["key"])
    op.create_table(
        "autotune_recommendations",
        sa.Column("job_id", sa.Integer, nullable=False),
        sa.Column("recommendation", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_autotune_recommendations"),
        sa.ForeignKeyConstraint(["job_id"], ["autotune_jobs.id"], name="fk_autotune_recommendations_job_id"),
    )
