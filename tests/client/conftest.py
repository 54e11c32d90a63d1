"""The client before a scripted server."""

from collections.abc import Iterator

import httpx2
import pytest
from scripted import Server

import autotune
from autotune.jobs import JobSpec
from autotune.request import TuneRequest, specify


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    assert server.answers == []


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


@pytest.fixture
def asking(server: Server, pauses: list[float]) -> Iterator[autotune.Client]:
    with autotune.Client(
        "http://there:8000/autotune", token="secret", transport=httpx2.MockTransport(server)
    ) as asking:
        yield asking


@pytest.fixture(scope="module")
def spec() -> JobSpec:
    return specify(TuneRequest("llama-20m", "cpu:2", name="job", ceiling="2GiB"))
