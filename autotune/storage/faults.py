"""`mapped_errors`: from the exceptions of SQLAlchemy to ours."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from sqlalchemy import URL, exc

from autotune.errors import AutotuneError, StorageUnavailable
from autotune.storage.backend import BACKENDS, place

_NOT_OURS = "its tables are not as this autotune leaves them, or this user may not use them"

FAULTS: Mapping[type[exc.SQLAlchemyError], str | None] = MappingProxyType(
    {
        exc.DBAPIError: None,
        exc.DataError: _NOT_OURS,
        exc.IntegrityError: _NOT_OURS,
        exc.NotSupportedError: _NOT_OURS,
        exc.ProgrammingError: _NOT_OURS,
        exc.DisconnectionError: None,
        exc.TimeoutError: "too many of its connections are in use at once",
    }
)
"""What a database does to us, with the hint that goes with it (None: the backend's advice); found by the
nearest base class. The other exceptions of SQLAlchemy are faults of our code and stay what they are."""


@contextmanager
def mapped_errors(url: URL) -> Iterator[None]:
    """Turn what the database does to us into StorageUnavailable, with one sentence and no password.

    Looks through Optuna's exceptions, which wrap SQLAlchemy's.
    """
    try:
        yield
    except AutotuneError:
        raise
    except Exception as error:
        for cause in (error, error.__cause__):
            if isinstance(cause, exc.SQLAlchemyError) and isinstance(cause, tuple(FAULTS)):
                raise StorageUnavailable(_sentence(cause, url)) from error
        raise


def _sentence(error: exc.SQLAlchemyError, url: URL) -> str:
    hint = next(FAULTS[kind] for kind in type(error).__mro__ if kind in FAULTS)
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    words = (str(cause).splitlines() or [type(cause).__name__])[0]
    for secret in (url.password, url.query.get("password")):
        if secret:
            words = words.replace(str(secret), "***")
    return f"the database {place(url)} cannot be used: {words}; {hint or BACKENDS[url.drivername].advice}"
