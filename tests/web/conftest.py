"""The app on a database of its own, with workers that probe in memory."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeExecutor
from small_job import REQUEST, service_with
from starlette.testclient import TestClient
from web_support import BASE_URL, Open, copy_database, work_on

from autotune.record import Record
from autotune.service import Service
from autotune.settings import Settings
from autotune.web.app import create_app


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "jobs.db"
    assert Record(f"sqlite:///{path}").repository.summaries.counts() == {}
    return path


@pytest.fixture
def database_file(tmp_path: Path, empty_database: Path) -> Path:
    """Of this test alone."""
    copy_database(empty_database, tmp_path / "jobs.db")
    return tmp_path / "jobs.db"


@pytest.fixture
def url(database_file: Path) -> str:
    return f"sqlite:///{database_file}"


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
    return partial(work_on, url)


@pytest.fixture(scope="session")
def finished_database(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a job that has a recommendation."""
    path = tmp_path_factory.mktemp("finished") / "jobs.db"
    copy_database(empty_database, path)
    with service_with(f"sqlite:///{path}", FakeExecutor()) as service:
        service.submit(REQUEST)
    work_on(f"sqlite:///{path}")
    return path


@pytest.fixture
def finished(database_file: Path, finished_database: Path) -> str:
    """A job that has a recommendation."""
    copy_database(finished_database, database_file)
    return REQUEST.name or ""
