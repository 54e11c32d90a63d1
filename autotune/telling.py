"""What a search tells, written down for those who watch it from elsewhere, whoever drives it."""

from autotune.report.progress import LOG, progress
from autotune.search.events import Event, Listener
from autotune.storage.patience import patient
from autotune.storage.records import Lease
from autotune.storage.repository import Repository


def teller(repository: Repository, lease: Lease, *listeners: Listener) -> Listener:
    """Writes down what happens to a job while its driver has the lease, and tells it to `listeners`."""
    events = patient(repository.events)

    def tell(event: Event) -> None:
        kind, data = progress(event)
        write = events.replace if kind == LOG else events.append
        write(lease, kind, data)
        for listener in listeners:
            listener(event)

    return tell
