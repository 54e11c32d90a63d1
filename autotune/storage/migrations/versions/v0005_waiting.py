"""What a job waits for that found that it could not run, since when, and when it is tried again."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("autotune_jobs", sa.Column("waiting_for", sa.Text))
    op.add_column("autotune_jobs", sa.Column("waiting_since", sa.DateTime(timezone=True)))
    op.add_column("autotune_jobs", sa.Column("due_at", sa.DateTime(timezone=True)))
