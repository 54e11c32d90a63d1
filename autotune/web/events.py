"""/v1/jobs/{name}/events: what happens to a job, as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from pydantic import Field
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from autotune.errors import MachineFault
from autotune.jobs import Job, JobStatus
from autotune.service import Service
from autotune.web.document import problems
from autotune.web.setup import MOST_ID, Name, Wired

POLL_S = 0.5
PING_S = 15
ENDED = (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELLED)

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=problems(404, 422))

Id = Annotated[int, Field(ge=0, le=MOST_ID, description="Only what happened after the event of this id.")]


@router.get("/{name}/events", summary="What happens to it, as it happens", response_class=EventSourceResponse)
async def events(
    name: Name,
    service: Wired,
    after: Annotated[Id, Query()] = 0,
    last_event_id: Annotated[Id | None, Header()] = None,
) -> EventSourceResponse:
    """Server-sent events: status, started, probe_started, probe_ended, standing. From the beginning, or after
    the event that the client had last. The stream ends with a job that has ended.
    """
    job = await run_in_threadpool(service.job, name)
    seen = after if last_event_id is None else last_event_id
    return EventSourceResponse(_stream(service, job, seen), ping=PING_S)


async def _stream(service: Service, job: Job, seen: int) -> AsyncIterator[ServerSentEvent]:
    while True:
        try:
            # Its end is told by an event, so the status is read before the events are.
            status = (await run_in_threadpool(service.job, job.name)).status
            found = await run_in_threadpool(service.events_after, job, seen)
        except MachineFault:  # a database that is being restarted
            await asyncio.sleep(POLL_S)
            continue
        for event in found:
            seen = event.id
            yield ServerSentEvent(json.dumps(event.data), event=event.kind, id=str(event.id))
        if not found and status in ENDED:
            return
        if not found:
            await asyncio.sleep(POLL_S)
