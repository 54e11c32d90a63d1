"""SQLite made safe for several processes: every transaction is exclusive from its first statement."""

import sqlite3
import time
from typing import Any, Self

BUSY_TIMEOUT_S = 60.0
"""How long a transaction waits for another to end."""
_PRAGMAS = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", "PRAGMA foreign_keys = ON")
_RETRY_S = 0.02


class _ImmediateCursor(sqlite3.Cursor):
    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        self._begin()
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> Self:
        self._begin()
        return super().executemany(sql, parameters)

    def _begin(self) -> None:
        if not self.connection.in_transaction:
            super().execute("BEGIN IMMEDIATE")


class ImmediateConnection(sqlite3.Connection):
    """A connection that begins IMMEDIATE before whatever is executed first, reading included.

    The standard library begins late, before the first write: two processes then read the same state,
    and both act on it. Given to SQLAlchemy as `connect_args={"factory": ImmediateConnection}`, which
    also reaches engines that someone else creates and uses at once, such as Optuna's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "isolation_level": None})
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        for pragma in _PRAGMAS:
            self._set(pragma, deadline)

    def cursor(self, factory: Any = _ImmediateCursor) -> Any:
        return super().cursor(factory)

    def _set(self, pragma: str, deadline: float) -> None:
        """Run a pragma outside any transaction; the first change to WAL does not wait for the lock itself."""
        while True:
            try:
                super().cursor(sqlite3.Cursor).execute(pragma)
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)
