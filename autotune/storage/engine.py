"""Database engines set up right: ours, and the one inside Optuna's storage."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import sqlalchemy
from sqlalchemy import Connection, Engine, text

from autotune.errors import StorageUnavailable
from autotune.storage.backend import BACKENDS, parse_url, place
from autotune.storage.faults import mapped_errors
from autotune.storage.patience import patient

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage


def create_engine(url: str) -> Engine:
    """Return an engine for our tables; nothing is opened yet.

    On SQLite every transaction is exclusive from its first statement. Raises StorageUnavailable where
    the URL is none, names a database that cannot hold the record, or the driver is not installed.
    """
    parsed = parse_url(url)
    backend = BACKENDS[parsed.drivername]
    try:
        return sqlalchemy.create_engine(parsed, **backend.engine_arguments)
    except ImportError as error:
        raise StorageUnavailable(
            f"the driver of {parsed.get_backend_name()} is not installed; install {backend.package}"
        ) from error


@contextmanager
def exclusive(engine: Engine) -> Iterator[Connection]:
    """Begin a transaction that only one of those who call this has at a time."""
    lock = BACKENDS[engine.url.drivername].lock
    with engine.begin() as connection:
        if lock is not None:
            connection.execute(text(lock))
        yield connection


def optuna_storage(url: str, kind: "type[RDBStorage] | None" = None) -> "RDBStorage":
    """Return Optuna's storage in the database at `url`; creates its tables where they are missing.

    `kind`: a subclass of Optuna's to make of it.

    Its engine is set up as ours is. Safe in several processes at once. Raises StorageUnavailable, also
    where another version of Optuna made the tables.
    """
    from optuna.storages import RDBStorage

    engine = create_engine(url)
    backend = BACKENDS[engine.url.drivername]
    plain = engine.url.render_as_string(hide_password=False)
    template = plain.replace("{", "{{").replace("}", "}}")  # RDBStorage fills in its schema version
    try:
        with mapped_errors(engine.url):
            with _creating(engine):
                arguments = {**backend.engine_arguments, **backend.creation_arguments}
                RDBStorage(template, arguments).engine.dispose()
            return (kind or RDBStorage)(
                template,
                dict(backend.engine_arguments),
                skip_compatibility_check=True,
                skip_table_creation=True,
            )
    except RuntimeError as error:
        raise StorageUnavailable(
            f"the database {place(engine.url)} was made with another version of Optuna: {error}"
        ) from error
    finally:
        engine.dispose()


def patient_storage(storage: "RDBStorage") -> "BaseStorage":
    """Return `storage` with Optuna's cache before it, waiting for a database that is away."""
    from optuna.storages import get_storage

    return patient(get_storage(storage), partial(mapped_errors, storage.engine.url))


@contextmanager
def _creating(engine: Engine) -> Iterator[None]:
    """Let one process at a time create Optuna's tables.

    Where every transaction is exclusive, a lock of ours would shut Optuna's connection out, and is not
    needed: each of its steps looks, inside the transaction, whether there is anything to do.
    """
    if BACKENDS[engine.url.drivername].lock is None:
        yield
    else:
        with exclusive(engine):
            yield
