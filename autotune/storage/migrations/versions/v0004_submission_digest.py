"""What an idempotency key marked, in the words of whoever submitted it: what follows from them may change."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("autotune_jobs", sa.Column("submission_digest", sa.Text))
