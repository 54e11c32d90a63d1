"""What happens to a job, as the server tells it, across lost connections."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

from autotune.client.connection import Connection
from autotune.errors import MachineFault
from autotune.jobs import JobStatus

RECONNECT_S = 0.5
"""After a stream that the server has ended before the job did."""
ENDED = (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELLED)


@dataclass(frozen=True)
class JobEvent:
    """One thing that happened to a job."""

    id: int
    """Larger than those of all that happened to it before."""
    kind: str
    """`status`, `started`, `probe_started`, `probe_ended` or `standing`."""
    data: dict[str, Any]


def follow(
    connection: Connection, path: str, after: int, status: Callable[[], JobStatus]
) -> Iterator[JobEvent]:
    """Each event after that of an id, once and in order, until the job that `status` is of has ended."""
    last: JobEvent | None = None
    failures = 0
    while True:
        seen = after
        try:
            with connection.stream(path, after) as source:
                failures = 0
                for sent in source:
                    if sent.data and sent.id:
                        last = _event(sent)
                        after = last.id
                        yield last
        except httpx2.RequestError as error:
            failures += 1
            connection.pause(failures, error)
            continue
        # A server that is stopped ends its streams in order too.
        if last is not None and last.kind == "status" and last.data.get("status") in ENDED:
            return
        if after == seen and status() in ENDED:
            return
        time.sleep(RECONNECT_S)


def _event(sent: httpx2.ServerSentEvent) -> JobEvent:
    try:
        return JobEvent(int(sent.id), sent.event, dict(json.loads(sent.data)))
    except (ValueError, TypeError) as error:
        raise MachineFault(
            f"the server told an event that is none: {sent.data[:80]!r}; use the version of autotune that "
            "it has"
        ) from error
