import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from sqlalchemy import text
from storage_support import Clock, Crew

from autotune.errors import BadInput, JobBusy, LeaseLost, NameInUse, NoSuchJob, StorageUnavailable
from autotune.jobs import Job, JobSpec, JobStatus
from autotune.storage.engine import create_engine
from autotune.storage.owner import Owner
from autotune.storage.records import Lease
from autotune.storage.repository import Repository
from trials.contract.config import TrainingConfig
from trials.contract.messages import Estimate, MemoryPeaks, ProbeResult
from trials.contract.outcome import Outcome, Phase

MakeSpec = Callable[..., JobSpec]
TTL_S = 30.0
ELSEWHERE = Owner(host="elsewhere", pid_space="", pid=7, started_ticks=0)


def result(median: float = 1000.0, probe_id: str = "tiny.0", **fields: Any) -> ProbeResult:
    return ProbeResult.model_validate(
        {
            "probe_id": probe_id,
            "outcome": Outcome.MEASURED,
            "phase": Phase.DONE,
            "tokens_per_second": Estimate(median=median, low=median - 1, high=median + 1),
            "peak_bytes": 70 * 2**30,
            "memory": (MemoryPeaks(device_bytes=70 * 2**30, allocator_retries=1),),
            "losses": (2.5, 2.25),
            "phase_s": {Phase.BUILD: 0.5},
            **fields,
        }
    )


def commit(repository: Repository, lease: Lease, number: int = 0, repeat: int = 0, **fields: Any) -> Any:
    given = {"key": "k", "config": TrainingConfig(), "result": result(), **fields}
    return repository.commit_measurement(lease, number, repeat, **given)


@pytest.fixture
def job(repository: Repository, make_spec: MakeSpec) -> Job:
    return repository.create_job(make_spec())


@pytest.fixture
def lease(repository: Repository, job: Job) -> Lease:
    return repository.acquire_lease(job, Owner.current(), TTL_S)


class TestJobs:
    def test_comes_back_as_it_was(self, repository: Repository, make_spec: MakeSpec, clock: Clock) -> None:
        spec = make_spec(baseline={"micro_batch_size": 3}, minutes=12.5, inventory={"名": ["é", None, 1.5]})
        created = repository.create_job(spec)
        assert created == repository.job("tiny")
        assert created.spec == spec
        assert (created.status, created.reason, created.spent_s) == (JobStatus.QUEUED, None, 0.0)
        assert created.created_at == created.updated_at == clock.now
        assert created.created_at.utcoffset() == timedelta(0)

    def test_is_there_for_the_next_process(
        self, url: str, repository: Repository, job: Job, clock: Clock
    ) -> None:
        with Repository(url, clock) as other:
            assert other.jobs() == [job]

    def test_listed_oldest_first(self, repository: Repository, make_spec: MakeSpec) -> None:
        for name in ("b", "c", "a"):
            repository.create_job(make_spec(name))
        assert [job.name for job in repository.jobs()] == ["b", "c", "a"]

    def test_name_in_use(self, repository: Repository, job: Job, make_spec: MakeSpec) -> None:
        with pytest.raises(NameInUse, match="autotune resume tiny"):
            repository.create_job(make_spec())
        assert repository.jobs() == [job]

    def test_no_such_job_names_the_nearest(self, repository: Repository, make_spec: MakeSpec) -> None:
        with pytest.raises(NoSuchJob, match="no job named 'tinny'; this database has no jobs yet"):
            repository.job("tinny")
        for name in ("other", "tiny"):
            repository.create_job(make_spec(name))
        with pytest.raises(NoSuchJob, match="did you mean 'tiny'"):
            repository.job("tinny")

    def test_written_by_another_version(self, url: str, repository: Repository, job: Job) -> None:
        with create_engine(url).begin() as connection:
            connection.execute(text("""UPDATE autotune_jobs SET spec = '{"colour": "red"}'"""))
        with pytest.raises(StorageUnavailable, match="unknown field 'colour'"):
            repository.job(job.name)

    def test_lost_database(self, url: str, repository: Repository, job: Job) -> None:
        with create_engine(url).begin() as connection:
            connection.execute(text("DROP TABLE autotune_measurements"))
        with pytest.raises(StorageUnavailable, match="autotune_measurements"):
            repository.measurements(job)


class TestStatus:
    def test_by_lease(self, repository: Repository, lease: Lease, clock: Clock) -> None:
        clock.advance(1)
        job = repository.set_status(lease, JobStatus.RUNNING)
        assert (job.status, job.updated_at) == (JobStatus.RUNNING, clock.now)
        job = repository.set_status(lease, JobStatus.FAILED, "no worker\0 answered")
        assert job == repository.job("tiny")
        assert (job.status, job.reason) == (JobStatus.FAILED, "no worker answered")
        assert repository.set_status(lease, JobStatus.RUNNING).reason is None

    def test_illegal_changes_nothing(self, repository: Repository, job: Job, lease: Lease) -> None:
        for target in (job, lease):
            with pytest.raises(BadInput, match="a job that is queued cannot become finished"):
                repository.set_status(target, JobStatus.FINISHED)
        assert repository.renew(lease).token == lease.token

    def test_anybody_can_cancel_and_the_driver_learns_it(
        self, repository: Repository, job: Job, lease: Lease
    ) -> None:
        repository.set_status(lease, JobStatus.RUNNING)
        assert repository.set_status(job, JobStatus.CANCELLED, "by the user").driver is None
        with pytest.raises(LeaseLost, match="it is cancelled and driven by nobody"):
            commit(repository, lease)
        assert repository.job(job.name).status == JobStatus.CANCELLED


class TestLease:
    def test_one_driver(self, repository: Repository, job: Job, lease: Lease, clock: Clock) -> None:
        assert lease.expires_at == clock.now + timedelta(seconds=TTL_S)
        for owner in (ELSEWHERE, Owner.current()):
            words = rf"driven by process {os.getpid()} on \S+ until 2026-01-02 03:04:35 UTC or longer; stop"
            with pytest.raises(JobBusy, match=words):
                repository.acquire_lease(job, owner, TTL_S)
        assert repository.job(job.name).driver == str(Owner.current())

    def test_each_token_is_larger(self, repository: Repository, job: Job, lease: Lease) -> None:
        repository.release(lease)
        assert repository.job(job.name).driver is None
        again = repository.acquire_lease(job, ELSEWHERE, TTL_S)
        assert again.token == lease.token + 1

    def test_lapses_at_its_time(self, repository: Repository, job: Job, lease: Lease, clock: Clock) -> None:
        clock.advance(TTL_S - 0.001)
        with pytest.raises(JobBusy):
            repository.acquire_lease(job, ELSEWHERE, TTL_S)
        clock.advance(0.001)
        assert repository.job(job.name).driver is None
        assert repository.acquire_lease(job, ELSEWHERE, TTL_S).owner == ELSEWHERE

    def test_renewed_it_goes_on(self, repository: Repository, job: Job, lease: Lease, clock: Clock) -> None:
        clock.advance(TTL_S - 1)
        renewed = repository.renew(lease)
        assert (renewed.token, renewed.expires_at) == (lease.token, clock.now + timedelta(seconds=TTL_S))
        clock.advance(TTL_S - 1)
        with pytest.raises(JobBusy):
            repository.acquire_lease(job, ELSEWHERE, TTL_S)

    def test_late_but_nobody_took_it(self, repository: Repository, lease: Lease, clock: Clock) -> None:
        clock.advance(10 * TTL_S)
        commit(repository, lease)
        assert repository.renew(lease).expires_at > clock.now

    @pytest.mark.parametrize("how", ["taken over", "released"])
    def test_an_old_lease_writes_nothing(
        self, repository: Repository, job: Job, lease: Lease, clock: Clock, how: str
    ) -> None:
        if how == "taken over":
            clock.advance(TTL_S)
            repository.acquire_lease(job, ELSEWHERE, TTL_S)
            words = "driven by process 7 on elsewhere"
        else:
            repository.release(lease)
            words = "driven by nobody"
        before = repository.job(job.name)
        clock.advance(1)
        writes: list[Callable[[], object]] = [
            lambda: commit(repository, lease),
            lambda: repository.set_status(lease, JobStatus.RUNNING),
            lambda: repository.add_spent(lease, 1.0),
            lambda: repository.save_recommendation(lease, {}),
            lambda: repository.renew(lease),
            lambda: repository.release(lease),
        ]
        for write in writes:
            with pytest.raises(LeaseLost, match=words):
                write()
        assert repository.job(job.name) == before
        assert repository.measurements(job) == []
        assert repository.recommendation(job) is None

    def test_a_killed_driver_is_followed_at_once(self, url: str, make_spec: MakeSpec) -> None:
        with Repository(url) as repository:
            job = repository.create_job(make_spec())
            with subprocess.Popen(
                [sys.executable, "-c", DRIVER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as driver:
                assert driver.stdout is not None
                assert driver.stdout.readline() == b"driving\n"
                with pytest.raises(JobBusy, match=f"process {driver.pid} "):
                    repository.acquire_lease(job, Owner.current(), TTL_S)
                driver.send_signal(signal.SIGKILL)
            assert repository.job(job.name).driver is None
            assert repository.acquire_lease(job, Owner.current(), TTL_S).token == 2

    def test_of_many_processes_one_wins(self, url: str, make_spec: MakeSpec, at_once: Crew) -> None:
        with Repository(url) as repository:
            names = [repository.create_job(make_spec(f"job{number}")).name for number in range(8)]
        answers = at_once(_acquire_each, url, names)
        for number in range(len(names)):
            assert sorted(answer[number] for answer in answers) == [False, False, False, True]

    def test_of_many_threads_one_wins(self, repository: Repository, job: Job) -> None:
        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(lambda _: _acquires(repository, job), range(8)))
        assert sum(won) == 1


DRIVER = """
import sys
from autotune.storage.owner import Owner
from autotune.storage.repository import Repository

repository = Repository(sys.argv[1])
repository.acquire_lease(repository.job("tiny"), Owner.current(), 3600)
print("driving", flush=True)
sys.stdin.read()
"""


def _acquires(repository: Repository, job: Job) -> bool:
    try:
        repository.acquire_lease(job, ELSEWHERE, 3600)
    except JobBusy:
        return False
    return True


def _acquire_each(url: str, names: list[str]) -> list[bool]:
    with Repository(url) as repository:
        return [_acquires(repository, repository.job(name)) for name in names]


class TestMeasurements:
    def test_comes_back_as_it_was(self, repository: Repository, job: Job, lease: Lease, clock: Clock) -> None:
        config = TrainingConfig(micro_batch_size=6, precision="bf16", sharding="zero3")
        committed = commit(repository, lease, 3, 1, key="abc", config=config, result=result(seconds=4.5))
        assert repository.measurements(job) == [committed]
        assert (committed.job_id, committed.trial_number, committed.repeat) == (job.id, 3, 1)
        assert (committed.key, committed.config) == ("abc", config)
        assert committed.result == result(seconds=4.5)
        assert committed.ceiling_bytes == job.spec.ceiling_bytes
        assert committed.created_at == clock.now

    def test_the_first_stays(self, repository: Repository, job: Job, lease: Lease) -> None:
        first = commit(repository, lease, result=result(1.0))
        assert commit(repository, lease, result=result(2.0), key="other") == first
        assert repository.measurements(job) == [first]

    def test_ordered_by_trial_and_repeat(self, repository: Repository, job: Job, lease: Lease) -> None:
        for number, repeat in ((2, 0), (0, 1), (0, 0), (2, 1)):
            commit(repository, lease, number, repeat)
        found = [(one.trial_number, one.repeat) for one in repository.measurements(job)]
        assert found == [(0, 0), (0, 1), (2, 0), (2, 1)]

    def test_what_json_has_no_word_for(self, repository: Repository, job: Job, lease: Lease) -> None:
        commit(
            repository,
            lease,
            result=result(
                outcome=Outcome.NON_FINITE,
                tokens_per_second=None,
                peak_bytes=None,
                losses=(2.0, math.inf, -math.inf, math.nan),
                detail="binary \0 é 語 \x1b[0m" + "x" * 100_000,
            ),
        )
        (found,) = repository.measurements(job)
        assert found.result.losses[:3] == (2.0, math.inf, -math.inf)
        assert math.isnan(found.result.losses[3])
        assert found.result.detail is not None
        assert found.result.detail.startswith("binary \0 é 語 \x1b[0m")
        assert len(found.result.detail) > 100_000

    def test_columns_for_those_who_query(self, url: str, repository: Repository, lease: Lease) -> None:
        commit(repository, lease, 0)
        commit(repository, lease, 1, result=result(outcome=Outcome.TIMED_OUT, tokens_per_second=None))
        query = (
            "SELECT outcome, tokens_per_second, peak_bytes FROM autotune_measurements ORDER BY trial_number"
        )
        with create_engine(url).connect() as connection:
            rows = [tuple(row) for row in connection.execute(text(query))]
        assert rows == [("measured", 1000.0, 70 * 2**30), ("timed_out", None, 70 * 2**30)]

    def test_own_probes_of_other_jobs_are_found_by_the_beginning_of_their_key(
        self, repository: Repository, job: Job, lease: Lease, make_spec: MakeSpec
    ) -> None:
        other = repository.acquire_lease(repository.create_job(make_spec("other")), ELSEWHERE, TTL_S)
        assert not repository.has_measurements(job)
        commit(repository, lease, key="shared-1")
        first = commit(repository, other, 0, key="shared-1")
        second = commit(repository, other, 1, key="shared-2")
        commit(repository, other, 1, repeat=1, key="shared-2")
        commit(repository, other, 2, key="unasked")
        commit(repository, other, 3, key="shared-3", reused_from="another")
        assert repository.probes_like("shared", besides=job) == [("other", second), ("other", first)]
        assert repository.probes_like("nothing", besides=job) == []
        assert repository.has_measurements(job)

    def test_what_was_taken_over_says_from_where(
        self, repository: Repository, job: Job, lease: Lease
    ) -> None:
        commit(repository, lease, reused_from="another")
        (found,) = repository.measurements(job)
        assert found.reused_from == "another"


class TestRecommendation:
    def test_the_latest_stays(self, repository: Repository, job: Job, lease: Lease) -> None:
        assert repository.recommendation(job) is None
        repository.save_recommendation(lease, {"trial": 1})
        latest = {"trial": 7, "config": TrainingConfig().model_dump(), "ties": [], "mfu": None}
        repository.save_recommendation(lease, latest)
        assert repository.recommendation(job) == latest


def test_spent_adds_up(url: str, repository: Repository, job: Job, lease: Lease) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: repository.add_spent(lease, 0.25), range(16)))
    assert repository.job(job.name).spent_s == 4.0


class TestMeasuredOn:
    INVENTORY: ClassVar[dict[str, Any]] = {"groups": [{"gpu": {"name": "H100-80GB"}}]}

    def test_the_latest_first_of_jobs_on_such_devices(
        self, repository: Repository, make_spec: MakeSpec
    ) -> None:
        for name in ("a", "b"):
            job = repository.create_job(make_spec(name, inventory=self.INVENTORY))
            lease = repository.acquire_lease(job, Owner.current(), TTL_S)
            commit(repository, lease, 0)
            commit(repository, lease, 1, result=result(outcome=Outcome.OUT_OF_MEMORY))
        other = repository.create_job(make_spec("other"))
        commit(repository, repository.acquire_lease(other, Owner.current(), TTL_S))
        found = repository.measured_on("H100-80GB", 10)
        assert [(job.name, measurement.trial_number) for job, measurement in found] == [("b", 0), ("a", 0)]
        assert [job.name for job, _ in repository.measured_on("H100-80GB", 1)] == ["b"]
        assert repository.measured_on("A100-80GB", 10) == []
