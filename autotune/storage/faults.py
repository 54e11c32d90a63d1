"""`mapped_errors`: from the exceptions of SQLAlchemy to ours."""

import sys
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
        # What a session says whose connection was lost under it.
        exc.PendingRollbackError: None,
        exc.ResourceClosedError: None,
    }
)
"""What a database does to us, with the hint that goes with it (None: the backend's advice); found by the
nearest base class. The other exceptions of SQLAlchemy are faults of our code and stay what they are, unless
another library has wrapped them: what it makes of a lost connection is not for us to foresee."""


@contextmanager
def mapped_errors(url: URL) -> Iterator[None]:
    """Turn what the database does to us into StorageUnavailable, with one sentence and no password.

    Looks through the exceptions of Optuna, which wraps whatever SQLAlchemy raises. An interrupt stays one,
    whatever the database does in its wake.
    """
    handled = sys.exception()
    try:
        yield
    except AutotuneError:
        raise
    except Exception as error:
        if (interrupt := _interrupt(error, handled)) is not None:
            raise interrupt  # noqa: B904  # it came first
        if (fault := _fault(error)) is None:
            raise
        raise StorageUnavailable(_sentence(fault, url)) from error


def _interrupt(error: BaseException, handled: BaseException | None) -> KeyboardInterrupt | None:
    """What an exception took the place of: a transaction that is given up may fail at that as well.

    Not what was being `handled` before.
    """
    before: BaseException | None = error
    while before is not None and before is not handled:
        if isinstance(before, KeyboardInterrupt):
            return before
        before = before.__context__
    return None


def _fault(error: Exception) -> exc.SQLAlchemyError | None:
    """What of SQLAlchemy's says that the database is at fault; None where it is not."""
    if isinstance(error, exc.SQLAlchemyError):
        return error if isinstance(error, tuple(FAULTS)) else None
    return error.__cause__ if isinstance(error.__cause__, exc.SQLAlchemyError) else None


def _sentence(error: exc.SQLAlchemyError, url: URL) -> str:
    hint = next((FAULTS[kind] for kind in type(error).__mro__ if kind in FAULTS), None)
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    words = (str(cause).splitlines() or [type(cause).__name__])[0]
    for secret in (url.password, url.query.get("password")):
        if secret:
            words = words.replace(str(secret), "***")
    return f"the database {place(url)} cannot be used: {words}; {hint or BACKENDS[url.drivername].advice}"
