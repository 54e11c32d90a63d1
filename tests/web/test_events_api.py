"""/v1/jobs/{name}/events: all that happened, in order, from where the client left off."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from small_job import REQUEST
from starlette.testclient import TestClient
from web_support import Open

from autotune.service import Service

Event = tuple[int, str, dict[str, Any]]


def parsed(text: str) -> list[Event]:
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "id" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


def test_a_job_that_has_ended_is_told_from_its_beginning_to_its_end(
    client: TestClient, finished: str
) -> None:
    answer = client.get(f"/v1/jobs/{finished}/events")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    events = parsed(answer.text)
    ids = [id_ for id_, _, _ in events]
    assert ids == sorted(set(ids))
    statuses = [data["status"] for _, kind, data in events if kind == "status"]
    assert (statuses[0], statuses[-1]) == ("queued", "finished")
    assert {"started", "probe_started", "probe_ended", "standing"} <= {kind for _, kind, _ in events}


@pytest.mark.parametrize("by", ["header", "query"])
def test_whoever_comes_back_is_told_what_they_missed(client: TestClient, finished: str, by: str) -> None:
    events = parsed(client.get(f"/v1/jobs/{finished}/events").text)
    last = events[4][0]
    how = {"headers": {"Last-Event-ID": str(last)}} if by == "header" else {"params": {"after": last}}
    assert parsed(client.get(f"/v1/jobs/{finished}/events", **how).text) == events[5:]


def test_ids_that_are_none_are_refused(client: TestClient, finished: str) -> None:
    path = f"/v1/jobs/{finished}/events"
    assert client.get(path, headers={"Last-Event-ID": "x"}).status_code == 422
    assert client.get(path, params={"after": -1}).status_code == 422


@pytest.fixture
def live(open_server: Open) -> Iterator[str]:
    """The server on a real socket; the test client would wait for the end of a stream."""
    app = open_server().app
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join()


def test_it_is_told_while_it_happens(live: str, service: Service, work: Callable[[], None]) -> None:
    import httpx2

    service.submit(REQUEST)
    working = threading.Timer(0.3, work)
    with httpx2.stream("GET", f"{live}/v1/jobs/job/events", timeout=30) as stream:
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: status"
        working.start()
        rest = "\n".join(lines)  # the stream ends with the job
    working.join()
    assert parsed(rest)[-1][2]["status"] == "finished"
