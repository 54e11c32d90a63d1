"""Workers while the database goes away and comes back: no job fails of it, nothing measured is lost."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy
from fakes import FakeExecutor
from small_job import changed, service_with

from autotune import worker as worker_module
from autotune.jobs import JobStatus
from autotune.record import Record
from autotune.worker import Worker

JOBS = 6
SECONDS = 12.0


@contextmanager
def connections_broken(url: str) -> Iterator[None]:
    """At random moments, all of them at once."""
    stop = threading.Event()
    parsed = sqlalchemy.make_url(url).set(drivername="postgresql+psycopg")
    engine = sqlalchemy.create_engine(parsed, isolation_level="AUTOCOMMIT")
    words = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE datname = '{parsed.database}' AND pid <> pg_backend_pid()"
    )

    def break_them() -> None:
        moments = random.Random(0)
        with engine.connect() as connection:
            while not stop.wait(moments.uniform(0.02, 0.3)):
                connection.exec_driver_sql(words)

    thread = threading.Thread(target=break_them)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        engine.dispose()


def test_no_job_fails_of_connections_that_break(
    fresh_postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "AGAIN_S", 0.1)
    monkeypatch.setattr(worker_module, "POLL_S", 0.1)
    url = fresh_postgresql_url
    with service_with(url, FakeExecutor()) as service:
        for number in range(JOBS):
            service.submit(changed(name=f"job{number}"))
        at_work = Worker(Record(url), {"ray": lambda layout, address: FakeExecutor()})
        stop = threading.Event()
        thread = threading.Thread(target=at_work.run, args=(stop,))
        with connections_broken(url):
            thread.start()
            time.sleep(SECONDS)
            stop.set()
            thread.join()
        assert {job.name: job.reason for job in service.jobs() if job.status == JobStatus.FAILED} == {}
