"""`patient`: the record as a driver uses it, which waits for a database that is away."""

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

from autotune.errors import StorageUnavailable

PATIENCE_S = 60.0
"""How long a database may be away before whoever needs it gives up: time enough to restart its server, and
less than a lease lasts."""
AGAIN_S = 1.0

_T = TypeVar("_T")


def patient(one: _T, within: Callable[[], AbstractContextManager[None]] = nullcontext) -> _T:
    """Return `one` with each of its methods tried again while it raises StorageUnavailable.

    Its methods have to be transactions that may be repeated, for what was committed may not have been said
    to be. `within`: in what each attempt is made, for instance to have its exceptions mapped.
    """
    return cast(_T, _Patient(one, within))


class _Patient:
    def __init__(self, one: object, within: Callable[[], AbstractContextManager[None]]) -> None:
        self._one = one
        self._within = within

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._one, name)
        return functools.partial(self._try, found) if callable(found) else found

    def _try(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                with self._within():
                    return method(*args, **kwargs)
            except StorageUnavailable:
                if time.monotonic() > until:
                    raise
            time.sleep(AGAIN_S)
