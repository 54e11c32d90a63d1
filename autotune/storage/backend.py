"""The databases we support, and the URL of one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy import URL, StaticPool, make_url
from sqlalchemy.exc import ArgumentError

from autotune.errors import StorageUnavailable
from autotune.storage.sqlite import BUSY_TIMEOUT_S, ImmediateConnection
from trials.contract.message import nearest

CONNECT_TIMEOUT_S = 10
"""For a PostgreSQL server to answer; without one, a silent address hangs for minutes."""


MOST_CONNECTIONS = 20
"""Of one engine, of which a server has three; PostgreSQL takes 100 in all unless told otherwise."""


@dataclass(frozen=True)
class Backend:
    """What differs between the databases."""

    driver: str
    """SQLAlchemy's dialect and driver."""
    package: str
    """What to install where the driver is missing."""
    advice: str
    """What to do when the database cannot be used."""
    engine_arguments: Mapping[str, Any]
    """For SQLAlchemy's create_engine."""
    creation_arguments: Mapping[str, Any] = field(default_factory=dict)
    """What is added to them while Optuna creates its tables."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Defaults of the URL's query."""
    lock: str | None = None
    """Statement that makes a transaction exclusive; None where every transaction is."""


_SQLITE = Backend(
    driver="sqlite+pysqlite",
    package="a Python that has sqlite3",
    advice="check that its folder exists and can be written, and that the file is a database",
    engine_arguments={"connect_args": {"timeout": BUSY_TIMEOUT_S, "factory": ImmediateConnection}},
    # Optuna then opens one session inside another, which would wait for ever for the first one's lock;
    # on a single connection they share it.
    creation_arguments={"poolclass": StaticPool},
)
_POSTGRESQL = Backend(
    driver="postgresql+psycopg",
    package="autotune[postgres]",
    advice="check that the server runs and that address, database, user and password are right",
    engine_arguments={"pool_pre_ping": True, "max_overflow": MOST_CONNECTIONS - 5},
    query={"connect_timeout": str(CONNECT_TIMEOUT_S)},
    # The key only has to be one that nobody else uses.
    lock=f"SELECT pg_advisory_xact_lock({int.from_bytes(b'autotune', 'big')})",
)
BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        "sqlite": _SQLITE,
        "sqlite+pysqlite": _SQLITE,
        "postgresql": _POSTGRESQL,
        "postgresql+psycopg": _POSTGRESQL,
        "postgres": _POSTGRESQL,
    }
)
"""By the scheme of a URL."""


def parse_url(text: str) -> URL:
    """Read the URL of a database, with its driver and our defaults written out.

    A SQLite file's path becomes absolute. Raises StorageUnavailable where it is no URL or names a
    database that cannot hold the record.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Neither text nor cause is shown: they may hold a password.
        raise StorageUnavailable(
            "the address of the database is not a URL; write one such as sqlite:///autotune.db or "
            "postgresql://user:password@host/database"
        ) from None
    backend = BACKENDS.get(url.drivername)
    if backend is None:
        raise StorageUnavailable(
            f"autotune keeps its record in SQLite or PostgreSQL, not in {url.drivername!r}"
            f"{nearest(url.drivername, list(BACKENDS))}"
        )
    if url.host and "@" in url.host:
        raise StorageUnavailable("the address of the database holds a second @; in a password, write %40")
    if backend is _SQLITE:
        url = url.set(database=_file(url))
    return url.set(drivername=backend.driver).update_query_dict({**backend.query, **url.query})


def place(url: URL) -> str:
    """Say where a database is, for messages: never its password or query."""
    if BACKENDS[url.drivername] is _SQLITE:
        return str(url.database)
    server = url.host or "this machine"
    port = f":{url.port}" if url.port else ""
    return f"{url.database or 'of this user'} on {server}{port}"


def may_exist(text: str) -> bool:
    """Whether there may be a database at this URL; False for a SQLite file that opening would create.

    Raises StorageUnavailable as `parse_url` does.
    """
    url = parse_url(text)
    return BACKENDS[url.drivername] is not _SQLITE or Path(str(url.database)).exists()


def _file(url: URL) -> str:
    if url.host or not url.database or url.database == ":memory:":
        raise StorageUnavailable(
            "SQLite needs a file that outlives this process; write sqlite:///autotune.db, with three "
            "slashes, or four before an absolute path"
        )
    return str(Path(url.database).absolute())
