"""`migrate`: bring a database to the schema of this autotune."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from autotune.errors import StorageUnavailable
from autotune.storage.backend import place
from autotune.storage.engine import exclusive
from autotune.storage.faults import mapped_errors

VERSION_TABLE = "autotune_alembic_version"
"""Not alembic's usual name, which is Optuna's in the same database."""


def migrate(engine: Engine) -> None:
    """Create or update our tables; processes that do so at once wait for one another.

    Raises StorageUnavailable where the database cannot be used, or a newer autotune has been at it.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    with mapped_errors(engine.url), exclusive(engine) as connection:
        revision = _revision(connection)
        if revision == script.get_current_head():
            return
        if revision not in {None, *(known.revision for known in script.walk_revisions())}:
            raise StorageUnavailable(
                f"the database {place(engine.url)} was written by a newer autotune (schema {revision}); "
                "upgrade this one with: pip install --upgrade autotune"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()
