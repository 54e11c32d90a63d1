"""The exceptions of autotune. Each message is one plain sentence with what to do; none needs a traceback.

AutotuneError                     exit code
├── UserError                     2   what was asked for cannot be
│   ├── BadInput                      a value, a file, a name
│   │   └── WrongStatus               what a job's status does not allow
│   ├── NameInUse                     a job of this name is in the database
│   ├── NoSuchJob
│   ├── NotFound                      a trial, an export format, one of its files, a token
│   ├── JobBusy                       another driver has the job
│   └── NotHere                       GPUs that no worker has
│       └── NotHereYet                of a cluster, whose nodes may be restarting
├── NothingFits                   3   no configuration under the ceiling
├── NothingMeasured               4   no probe came back with a figure
└── MachineFault                  1   ours or the machine's
    ├── StorageUnavailable            the database cannot be opened or was lost
    ├── LeaseLost                     another driver took the job over
    └── ExecutionUnavailable          Ray, a supervisor or a worker cannot be started
        └── NotNow                    devices that others use, a cluster that does not answer: later, perhaps
"""

from collections.abc import Iterator
from contextlib import contextmanager


class AutotuneError(Exception):
    exit_code = 1


class UserError(AutotuneError):
    exit_code = 2


class BadInput(UserError):
    field: str | None = None
    """Of the request, where one alone is to blame."""


class WrongStatus(BadInput):
    pass


class NameInUse(UserError):
    pass


class NoSuchJob(UserError):
    pass


class NotFound(UserError):
    pass


class JobBusy(UserError):
    pass


class NotHere(UserError):
    pass


class NotHereYet(NotHere):
    pass


class NothingFits(AutotuneError):
    exit_code = 3


class NothingMeasured(AutotuneError):
    exit_code = 4


class MachineFault(AutotuneError):
    exit_code = 1


class StorageUnavailable(MachineFault):
    pass


class LeaseLost(MachineFault):
    pass


class ExecutionUnavailable(MachineFault):
    pass


class NotNow(ExecutionUnavailable):
    pass


@contextmanager
def about(field: str) -> Iterator[None]:
    """What is wrong with the input here is wrong with this field of the request."""
    try:
        yield
    except BadInput as error:
        error.field = error.field or field
        raise
