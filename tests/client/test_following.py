"""Following a job: its events over lost connections, and its end."""

import httpx2
import pytest
from scripted import LOST, REFUSED, Server, answer, problem, stream, view

import autotune
from autotune.client import JobEvent, client
from autotune.client.connection import PAUSES_S
from autotune.errors import MachineFault, NoSuchJob
from autotune.jobs import JobSpec, JobStatus


def test_events_go_on_where_the_connection_was_lost(server: Server, asking: autotune.Client):
    started = (1, "started", {"trials": 2})
    server.says(
        stream((0, "status", {"status": "running"}), started, then=LOST),
        REFUSED,
        httpx2.Response(503),
        stream((4, "standing", {"best": None})),  # the server is stopped, in order
        stream((7, "status", {"status": "finished"})),
    )
    told = list(asking.events("job"))
    assert [event.id for event in told] == [0, 1, 4, 7]
    assert told[1] == JobEvent(1, "started", {"trials": 2})
    assert [request.headers["last-event-id"] for request in server.asked] == ["0", "1", "1", "1", "4"]


def test_events_of_a_job_that_has_ended_before(server: Server, asking: autotune.Client, spec: JobSpec):
    server.says(stream(), view(spec, JobStatus.RUNNING), stream(), view(spec, JobStatus.FAILED))
    assert list(asking.events("job", after=12)) == []
    assert server.asked[0].headers["last-event-id"] == "12"


def test_a_job_that_failed_once_and_was_resumed_is_followed_to_its_end(
    server: Server, asking: autotune.Client
):
    server.says(
        stream(
            (1, "status", {"status": "failed"}),
            (2, "status", {"status": "queued"}),
            (3, "status", {"status": "finished"}),
        )
    )
    assert [event.id for event in asking.events("job")] == [1, 2, 3]


def test_events_of_no_job_and_of_no_server(server: Server, asking: autotune.Client, pauses: list[float]):
    server.says(problem("urn:autotune:problem:no-such-job", 404))
    with pytest.raises(NoSuchJob):
        next(asking.events("job"))
    server.says(*[REFUSED] * (len(PAUSES_S) + 1))
    with pytest.raises(MachineFault, match="cannot be reached"):
        next(asking.events("job"))
    server.says(httpx2.Response(200, text="<html>", headers={"Content-Type": "text/html"}))
    with pytest.raises(MachineFault):
        next(asking.events("job"))
    nonsense = b"id: 1\ndata: nonsense\n\n"
    server.says(httpx2.Response(200, content=nonsense, headers={"Content-Type": "text/event-stream"}))
    with pytest.raises(MachineFault, match="an event that is none: 'nonsense'"):
        next(asking.events("job"))


def test_waiting_ends_with_the_job(
    server: Server, asking: autotune.Client, spec: JobSpec, pauses: list[float]
):
    server.says(view(spec), view(spec, JobStatus.RUNNING), view(spec, JobStatus.FINISHED), answer().to_dict())
    assert asking.wait("job") == answer()
    assert pauses == [client.WAITING_S] * 2
    server.says(view(spec, JobStatus.PAUSED), answer(JobStatus.PAUSED).to_dict())
    assert asking.wait("job").status == "paused"
    server.says(view(spec, JobStatus.RUNNING))
    with pytest.raises(TimeoutError, match="has not ended within 0 s"):
        asking.wait("job", timeout_s=0)
