"""Alembic runs this file: it hands the revisions the connection, in whose transaction they all run."""

from alembic import context

from autotune.storage.migrations import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
