"""A server that answers what the test has put there, and its answers."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2

from autotune.jobs import Job, JobSpec, JobStatus
from autotune.report.answer import Answer, Spent
from autotune.report.job_view import job_view

LOST = httpx2.ReadError("connection reset")
REFUSED = httpx2.ConnectError("connection refused")


class Server:
    """Answers requests one after the other from what the test has put there, and keeps them."""

    def __init__(self) -> None:
        self.answers: list[httpx2.Response | Exception] = []
        self.asked: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        assert self.answers, f"nothing to answer {request.method} {request.url} with"
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def says(self, *answers: httpx2.Response | Exception | dict[str, Any]) -> None:
        self.answers += [
            httpx2.Response(200, json=answer) if isinstance(answer, dict) else answer for answer in answers
        ]

    @property
    def paths(self) -> list[str]:
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.asked]

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.asked]


def view(spec: JobSpec, status: JobStatus = JobStatus.QUEUED) -> dict[str, Any]:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    return job_view(Job(1, spec, status, None, now, now, 0.0, None), "/dashboard/studies/3").to_dict()


def answer(status: JobStatus = JobStatus.FINISHED) -> Answer:
    spent = Spent(trials=1, seconds=2.0, gpu_hours=0.0)
    return Answer(job="job", status=status, reason=None, recommendation=None, spent=spent)


def problem(kind: str, status: int, detail: str = "this and that", **more: object) -> httpx2.Response:
    content = {"type": kind, "title": "x", "status": status, "detail": detail, **more}
    return httpx2.Response(status, json=content, headers={"Content-Type": "application/problem+json"})


def stream(*told: tuple[int, str, dict[str, Any]], then: Exception | None = None) -> httpx2.Response:
    """A stream of events, with a ping before each; ends in order or with a lost connection."""

    def chunks() -> Iterator[bytes]:
        for number, kind, data in told:
            text = f": ping\r\n\r\nid: {number}\r\nevent: {kind}\r\ndata: {json.dumps(data)}\r\n\r\n"
            yield text[:10].encode()
            yield text[10:].encode()
        if then is not None:
            yield b"id: 99\r\nevent: status\r\ndata: {}"
            raise then

    return httpx2.Response(
        200, headers={"Content-Type": "text/event-stream; charset=utf-8"}, content=chunks()
    )
