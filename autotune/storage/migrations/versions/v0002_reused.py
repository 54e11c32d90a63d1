"""Measurements that a job took over from another."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("autotune_measurements", sa.Column("reused_from", sa.Text))
