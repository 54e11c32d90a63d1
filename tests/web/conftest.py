"""The app on a database of its own, with workers that probe in memory."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeExecutor
from small_job import REQUEST, service_with
from starlette.testclient import TestClient
from web_support import BASE_URL, Open

from autotune.record import Record
from autotune.service import Service
from autotune.settings import Settings
from autotune.web.app import create_app
from autotune.worker import Worker


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def service(url: str) -> Iterator[Service]:
    with service_with(url, FakeExecutor()) as opened:
        yield opened


@pytest.fixture
def open_server(url: str, service: Service, monkeypatch: pytest.MonkeyPatch) -> Open:
    """An app of the service; settings and whether it is open to all as they are given."""
    for name in ("AUTOTUNE_TOKEN", "AUTOTUNE_HOSTS", "AUTOTUNE_FACTORIES", "AUTOTUNE_RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def open_server(*, open_to_all: bool = True, **settings: Any) -> TestClient:
        app = create_app(service, Settings(storage=url, **settings), open_to_all=open_to_all)
        return TestClient(app, BASE_URL, raise_server_exceptions=False, follow_redirects=False)

    return open_server


@pytest.fixture
def client(open_server: Open) -> TestClient:
    return open_server()


@pytest.fixture
def work(url: str) -> Callable[[], None]:
    """Drives the jobs that wait."""

    def work() -> None:
        worker = Worker(Record(url), dict.fromkeys(("ray", "local"), lambda layout, address: FakeExecutor()))
        while worker.work_once():
            pass

    return work


@pytest.fixture
def finished(service: Service, work: Callable[[], None]) -> str:
    """A job that has a recommendation."""
    service.submit(REQUEST)
    work()
    return REQUEST.name or ""
