"""Our exceptions as the API names them: by a URN and an HTTP status, read back by the client."""

from collections.abc import Mapping
from types import MappingProxyType

from autotune.errors import (
    AutotuneError,
    BadInput,
    ExecutionUnavailable,
    JobBusy,
    LeaseLost,
    NameInUse,
    NoSuchJob,
    NotFound,
    NotHere,
    NotHereYet,
    NothingFits,
    NothingMeasured,
    NotNow,
    StorageUnavailable,
    WrongStatus,
)

PREFIX = "urn:autotune:problem:"
# In both tables, an exception comes before that which it is a case of.
TYPES: Mapping[str, type[AutotuneError]] = MappingProxyType(
    {
        f"{PREFIX}wrong-status": WrongStatus,
        f"{PREFIX}bad-input": BadInput,
        f"{PREFIX}name-in-use": NameInUse,
        f"{PREFIX}no-such-job": NoSuchJob,
        f"{PREFIX}not-found": NotFound,
        f"{PREFIX}job-busy": JobBusy,
        f"{PREFIX}not-here-yet": NotHereYet,
        f"{PREFIX}not-here": NotHere,
        f"{PREFIX}nothing-fits": NothingFits,
        f"{PREFIX}nothing-measured": NothingMeasured,
        f"{PREFIX}storage-unavailable": StorageUnavailable,
        f"{PREFIX}lease-lost": LeaseLost,
        f"{PREFIX}not-now": NotNow,
        f"{PREFIX}execution-unavailable": ExecutionUnavailable,
    }
)
STATUSES: Mapping[type[AutotuneError], int] = MappingProxyType(
    {
        WrongStatus: 409,
        BadInput: 422,
        NameInUse: 409,
        NoSuchJob: 404,
        NotFound: 404,
        JobBusy: 409,
        NotHereYet: 503,
        NotHere: 409,
        NothingFits: 409,
        NothingMeasured: 409,
        StorageUnavailable: 503,
        LeaseLost: 409,
        NotNow: 503,
        ExecutionUnavailable: 503,
    }
)
"""HTTP status of each."""


def type_of(error: AutotuneError) -> str:
    """The URN of an exception."""
    return next(urn for urn, kind in TYPES.items() if isinstance(error, kind))


def status_of(error: AutotuneError) -> int:
    return next(status for kind, status in STATUSES.items() if isinstance(error, kind))
