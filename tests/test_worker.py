"""Workers take jobs from the database and drive them to their ends, whatever happens to workers."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import FakeExecutor
from small_job import REQUEST, changed, service_with

from autotune import driver
from autotune.errors import BadInput, ExecutionUnavailable, NotHere, NotHereYet, NotNow, StorageUnavailable
from autotune.jobs import JobStatus
from autotune.record import Record
from autotune.service import Service
from autotune.storage import queue
from autotune.storage.owner import Owner
from autotune.worker import Worker
from trials.contract.outcome import Outcome


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def service(url: str) -> Iterator[Service]:
    with service_with(url, FakeExecutor()) as opened:
        yield opened


def worker(url: str, executor: FakeExecutor | None = None) -> Worker:
    """With an executor of its own for each job, unless one is given."""
    return Worker(
        Record(url), {name: lambda layout, address: executor or FakeExecutor() for name in ("ray", "local")}
    )


def kinds(service: Service, name: str = "job") -> list[str]:
    repository = service._record.repository
    return [event.kind for event in repository.events.after(repository.job(name))]


def test_a_submitted_job_is_driven_to_its_recommendation(url: str, service: Service) -> None:
    assert service.submit(REQUEST).status == JobStatus.QUEUED
    at_work = worker(url)
    assert at_work.work_once()
    assert not at_work.work_once()
    answer = service.answer("job")
    assert answer.status == JobStatus.FINISHED
    assert answer.recommendation is not None
    told = kinds(service)
    assert told[:3] == ["status", "status", "started"]  # queued, running
    assert told.count("probe_started") == told.count("probe_ended")
    assert "standing" in told
    assert told[-1] == "status"


def test_the_same_submission_sent_again_is_one_job(service: Service) -> None:
    first = service.submit(changed(name=None), "key")
    assert service.submit(changed(name=None), "key").id == first.id
    with pytest.raises(BadInput, match="the idempotency key 'key' marked another submission"):
        service.submit(changed(name=None, trials=5), "key")
    with pytest.raises(BadInput, match="the idempotency key 'key' marked another submission"):
        service.submit(changed(name="named"), "key")
    assert service.submit(changed(name=None)).id != first.id


@pytest.mark.parametrize("name", [None, "named"])
def test_the_same_submission_sent_many_times_at_once_is_one_job(
    url: str, service: Service, name: str
) -> None:
    service.submit(REQUEST)
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(service.submit, changed(name=name), "key") for _ in range(8)]
        assert len({one.result(60).id for one in sent}) == 1
    assert len(service.jobs()) == 2


def test_what_is_wrong_is_said_before_there_is_a_job(service: Service) -> None:
    with pytest.raises(BadInput):
        service.submit(changed(ceiling="much"))
    assert service.jobs() == []


def test_a_worker_that_is_stopped_gives_its_job_back(url: str, service: Service) -> None:
    service.submit(REQUEST)

    def outcome_of(config, attempt):
        if len(interrupted.asked) > 3:
            raise KeyboardInterrupt
        return Outcome.MEASURED

    interrupted = FakeExecutor(outcome_of)
    with pytest.raises(KeyboardInterrupt):
        worker(url, interrupted).work_once()
    assert service.job("job").status == JobStatus.QUEUED
    another = FakeExecutor()
    assert worker(url, another).work_once()
    assert service.job("job").status == JobStatus.FINISHED
    assert not {*interrupted.asked[:3]} & {*another.asked[:1]}  # it went on where the first one was


def test_a_worker_that_is_stopped_as_it_begins_gives_its_job_back(url: str, service: Service) -> None:
    service.submit(REQUEST)

    def interrupted(layout, address):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Worker(Record(url), {"ray": interrupted}).work_once()
    job = service.job("job")
    assert (job.status, job.driver) == (JobStatus.QUEUED, None)
    assert worker(url).work_once()
    assert service.job("job").status == JobStatus.FINISHED


def test_what_a_dead_worker_left_is_taken_up(url: str, service: Service) -> None:
    service.submit(REQUEST)
    gone = Owner.current().model_copy(update={"pid": 2**22 + 1})  # more than any process has
    left = service._record.repository.queue.claim(gone, driver.LEASE_S)
    assert left is not None
    assert service._record.repository.set_status(left[1], JobStatus.RUNNING).status == JobStatus.RUNNING
    assert worker(url).work_once()
    assert service.job("job").status == JobStatus.FINISHED


def test_a_cancelled_job_is_left_alone(url: str, service: Service) -> None:
    service.submit(REQUEST)
    assert service.cancel("job").status == JobStatus.CANCELLED
    assert not worker(url).work_once()
    with pytest.raises(BadInput):
        service.cancel("job")


def test_a_job_is_cancelled_while_it_is_driven(url: str, service: Service) -> None:
    service.submit(REQUEST)

    def outcome_of(config, attempt):
        if len(executor.asked) == 3:
            with service_with(url, FakeExecutor()) as other:
                other.cancel("job")
        return Outcome.MEASURED

    executor = FakeExecutor(outcome_of)
    assert worker(url, executor).work_once()
    assert service.job("job").status == JobStatus.CANCELLED
    assert len(executor.asked) == 3


def test_a_worker_is_stopped_though_its_job_was_cancelled_a_moment_before(url: str, service: Service) -> None:
    """Else it would find that it drives the job no more, and go on to the next."""
    service.submit(REQUEST)

    def outcome_of(config, attempt):
        with service_with(url, FakeExecutor()) as other:
            other.cancel("job")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker(url, FakeExecutor(outcome_of)).work_once()
    assert service.job("job").status == JobStatus.CANCELLED


def test_a_worker_stops_though_its_database_is_away(url: str, service: Service) -> None:
    """Else it would try again, and run on though it was told to stop."""
    service.submit(REQUEST)
    record = Record(url)

    def outcome_of(config, attempt):
        record.repository.release = unavailable
        raise KeyboardInterrupt

    executors = dict.fromkeys(("ray", "local"), lambda layout, address: FakeExecutor(outcome_of))
    with pytest.raises(KeyboardInterrupt):
        Worker(record, executors).work_once()


def unavailable(*_: object) -> None:
    raise StorageUnavailable("the database is away")


def test_where_probes_cannot_run_the_job_fails_in_words_and_can_be_resumed(
    url: str, service: Service
) -> None:
    service.submit(REQUEST)

    def unavailable(layout, address):
        raise ExecutionUnavailable("no cluster is there")

    broken = Worker(Record(url), {"ray": unavailable, "local": unavailable})
    assert broken.work_once()
    job = service.job("job")
    assert (job.status, job.reason) == (JobStatus.FAILED, "no cluster is there")
    assert not broken.work_once()
    assert service.requeue("job").status == JobStatus.QUEUED
    assert worker(url).work_once()
    assert service.job("job").status == JobStatus.FINISHED


def test_who_watches_a_job_that_waits_is_told_once(
    url: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is tried meanwhile, and of each new reason."""
    monkeypatch.setattr(queue, "LEAST_PAUSE_S", 0.0)
    monkeypatch.setattr(queue, "MOST_PAUSE_S", 0.0)
    service.submit(REQUEST)
    reasons = ["others use the devices"] * 4 + ["the cluster does not answer"] * 3

    def executor(layout, address):
        if reasons:
            raise NotNow(reasons.pop(0))
        return FakeExecutor()

    at_work = Worker(Record(url), dict.fromkeys(("ray", "local"), executor))
    for _ in range(7):
        assert at_work.work_once()
    assert kinds(service) == ["status"] * 3
    assert service.job("job").reason == "the cluster does not answer; it is tried again"
    assert at_work.work_once()
    assert service.job("job").status == JobStatus.FINISHED


def test_a_job_whose_devices_are_taken_waits_behind_the_others(
    url: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For good, until somebody cancels it: devices come back."""
    monkeypatch.setattr(queue, "LEAST_PAUSE_S", 0.0)
    for name in ("first", "second"):
        service.submit(changed(name=name))
    taken = True

    def executor(layout, address):
        if taken:
            raise NotNow("others use the devices")
        return FakeExecutor()

    at_work = Worker(Record(url), dict.fromkeys(("ray", "local"), executor))
    assert at_work.work_once()
    job = service.job("first")
    assert (job.status, job.reason) == (JobStatus.QUEUED, "others use the devices; it is tried again")
    taken = False
    assert at_work.work_once()
    assert service.job("second").status == JobStatus.FINISHED
    assert at_work.work_once()
    assert service.job("first").status == JobStatus.FINISHED


def test_a_job_waits_a_while_for_nodes_that_a_cluster_lacks(
    url: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be restarting; what this machine lacks does not come back."""
    monkeypatch.setattr(queue, "LEAST_PAUSE_S", 0.0)
    service.submit(REQUEST)
    lack: type[NotHere] = NotHereYet

    def executor(layout, address):
        raise lack("no node has the devices")

    at_work = Worker(Record(url), {"ray": executor})
    assert at_work.work_once()
    job = service.job("job")
    assert (job.status, job.reason) == (JobStatus.QUEUED, "no node has the devices; it is tried again")
    monkeypatch.setattr(driver, "WAITS_S", {NotHereYet: 0.0})
    assert at_work.work_once()
    job = service.job("job")
    assert (job.status, job.reason) == (JobStatus.FAILED, "no node has the devices")
    monkeypatch.undo()
    service.requeue("job")
    lack = NotHere
    assert at_work.work_once()
    assert service.job("job").status == JobStatus.FAILED


def test_workers_share_the_jobs(url: str, service: Service) -> None:
    for number in range(4):
        service.submit(changed(name=f"job{number}", trials=3))
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    workers = [spawn.Process(target=work, args=(url, stop)) for _ in range(2)]
    for process in workers:
        process.start()
    wait_until(lambda: all(job.status == JobStatus.FINISHED for job in service.jobs()))
    stop.set()
    for process in workers:
        process.join(10)
        assert process.exitcode == 0
    for number in range(4):
        assert kinds(service, f"job{number}").count("started") == 1


def work(url: str, stop: threading.Event) -> None:
    worker(url).run(stop)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    pause = threading.Event()
    for _ in range(int(seconds / 0.1)):
        if condition():
            return
        pause.wait(0.1)
    raise AssertionError(f"not within {seconds} s")
