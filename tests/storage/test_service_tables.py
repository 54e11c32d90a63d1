"""The queue of jobs for workers, what happened to them, and tokens; each on SQLite and PostgreSQL."""

import itertools
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text
from storage_support import Clock, Crew

from autotune.errors import BadInput, LeaseLost, NameInUse
from autotune.jobs import Job, JobSpec, JobStatus
from autotune.storage import queue
from autotune.storage.engine import create_engine
from autotune.storage.leases import driven
from autotune.storage.owner import Owner
from autotune.storage.reading import read_job
from autotune.storage.records import Mark
from autotune.storage.repository import Repository, utc_now
from autotune.storage.tables import EventRow, JobRow
from autotune.storage.tokens import Role
from trials.contract.config import TrainingConfig
from trials.contract.messages import ProbeResult
from trials.contract.outcome import Outcome, Phase

MakeSpec = Callable[..., JobSpec]
TTL_S = 30.0
ELSEWHERE = Owner(host="elsewhere", pid_space="", pid=7, started_ticks=0)
MORE_ELSEWHERE = (ELSEWHERE.model_copy(update={"pid": pid}) for pid in itertools.count(8))


def claimed(repository: Repository, owner: Owner | None = None) -> str | None:
    """The name of what `owner` gets, or else one more who never asked before."""
    found = repository.queue.claim(owner or next(MORE_ELSEWHERE), TTL_S)
    return None if found is None else found[0].name


def written_anew(url: str, name: str, **columns: str) -> None:
    """As another version of autotune might have."""
    words = ", ".join(f"{column} = :{column}" for column in columns)
    with create_engine(url).begin() as connection:
        connection.execute(
            text(f"UPDATE autotune_jobs SET {words} WHERE name = :name"), {**columns, "name": name}
        )


def put_back(
    repository: Repository, clock: Clock, why: str, *, wait: bool = True, at_most_s: float = math.inf
) -> float:
    """Let a job find that it cannot run now; return how long it is left alone then."""
    found = repository.queue.claim(ELSEWHERE, TTL_S)
    assert found is not None
    repository.queue.put_back(found[1], why, at_most_s)
    repository.release(found[1])
    began = clock.now
    while wait and repository.job(found[0].name).status == JobStatus.QUEUED:
        clock.advance(5.0)
        if (again := repository.queue.claim(ELSEWHERE, TTL_S)) is not None:
            repository.release(again[1])
            break
    return (clock.now - began).total_seconds()


def claim_in_process(url: str) -> list[str]:
    """Every job that this process gets."""
    with Repository(url) as repository:
        names = []
        while (found := repository.queue.claim(Owner.current(), TTL_S)) is not None:
            job, lease = found
            repository.set_status(lease, JobStatus.FAILED)
            names.append(job.name)
        return names


class TestQueue:
    def test_the_oldest_goes_first_and_each_once(self, repository: Repository, make_spec: MakeSpec) -> None:
        for name in ("a", "b"):
            repository.create_job(make_spec(name), for_workers=True)
        assert [claimed(repository) for _ in range(3)] == ["a", "b", None]

    def test_who_asks_on_a_terminal_drives_alone(self, repository: Repository, make_spec: MakeSpec) -> None:
        repository.create_job(make_spec())
        assert claimed(repository) is None

    def test_many_workers_at_once_get_different_jobs(
        self, url: str, repository: Repository, make_spec: MakeSpec, at_once: Crew
    ) -> None:
        names = {f"job{number}" for number in range(12)}
        for name in names:
            repository.create_job(make_spec(name), for_workers=True)
        taken = [name for each in at_once(claim_in_process, url) for name in each]
        assert sorted(taken) == sorted(names)

    def test_who_asks_while_another_is_being_given_one_gets_the_next(
        self, fresh_postgresql_url: str, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """PostgreSQL alone has two transactions at once."""
        meanwhile: list[str | None] = []

        def read_slowly(row: JobRow, driver: Owner | None) -> Job:
            monkeypatch.undo()
            with Repository(fresh_postgresql_url) as other:
                meanwhile.extend(claimed(other) for _ in range(3))
            return read_job(row, driver)

        with Repository(fresh_postgresql_url) as repository:
            for name in ("a", "b", "c"):
                repository.create_job(make_spec(name), for_workers=True)
            monkeypatch.setattr(queue, "read_job", read_slowly)
            assert claimed(repository) == "a"
        assert meanwhile == ["b", "c", None]

    def test_what_a_worker_left_behind_is_taken_up(
        self, repository: Repository, make_spec: MakeSpec, clock: Clock
    ) -> None:
        repository.create_job(make_spec(), for_workers=True)
        first = repository.queue.claim(ELSEWHERE, TTL_S)
        assert first is not None
        repository.set_status(first[1], JobStatus.RUNNING)
        assert claimed(repository) is None
        clock.advance(TTL_S + 1)
        second = repository.queue.claim(ELSEWHERE, TTL_S)
        assert second is not None
        assert second[1].token > first[1].token

    def test_who_asks_again_could_not_give_its_job_back(
        self, repository: Repository, make_spec: MakeSpec
    ) -> None:
        """While others wait until its lease has lapsed."""
        repository.create_job(make_spec(), for_workers=True)
        first = repository.queue.claim(ELSEWHERE, TTL_S)
        assert claimed(repository) is None
        second = repository.queue.claim(ELSEWHERE, TTL_S)
        assert first is not None
        assert second is not None
        with pytest.raises(LeaseLost):
            repository.renew(first[1])
        assert repository.renew(second[1]).token == first[1].token + 1

    def test_a_job_that_cannot_be_read_holds_up_no_other(
        self, url: str, repository: Repository, make_spec: MakeSpec
    ) -> None:
        for name in ("a", "b"):
            job = repository.create_job(make_spec(name), for_workers=True)
        spec = json.dumps({**job.spec.model_dump(mode="json"), "colour": "red"})
        written_anew(url, "a", spec=spec)
        assert [claimed(repository) for _ in range(2)] == ["b", None]
        _, failed = repository.summaries.latest(limit=2)
        assert failed.status == JobStatus.FAILED
        assert "unknown field 'colour'" in (failed.reason or "")
        (*_, told) = repository.events.after(replace(job, id=failed.id))
        assert told.data == {"status": "failed", "reason": failed.reason}

    def test_a_driver_that_cannot_be_read_is_somebody_else(
        self, url: str, repository: Repository, make_spec: MakeSpec, clock: Clock
    ) -> None:
        for name in ("a", "b"):
            repository.create_job(make_spec(name), for_workers=True)
        assert claimed(repository) == "a"
        written_anew(url, "a", lease_owner='{"colour": "red"}')
        assert [claimed(repository) for _ in range(2)] == ["b", None]
        clock.advance(TTL_S)
        assert claimed(repository) == "a"

    def test_a_job_that_is_given_back_is_handed_out_again(
        self, repository: Repository, make_spec: MakeSpec
    ) -> None:
        repository.create_job(make_spec(), for_workers=True)
        found = repository.queue.claim(ELSEWHERE, TTL_S)
        assert found is not None
        repository.set_status(found[1], JobStatus.RUNNING)
        repository.set_status(found[1], JobStatus.QUEUED)
        repository.release(found[1])
        assert claimed(repository) == "tiny"

    def test_a_job_that_waits_is_tried_after_pauses_that_grow(
        self, repository: Repository, make_spec: MakeSpec, clock: Clock
    ) -> None:
        job = repository.create_job(make_spec(), for_workers=True)
        pauses = []
        for _ in range(9):
            pauses.append(put_back(repository, clock, "others use the devices"))
        assert pauses[:3] == [5.0, 5.0, 10.0]
        assert pauses[-1] == queue.MOST_PAUSE_S
        waits = repository.job(job.name)
        assert (waits.status, waits.reason) == (JobStatus.QUEUED, "others use the devices; it is tried again")
        assert len(repository.events.after(job)) == 2
        assert put_back(repository, clock, "another reason") == 5.0

    def test_a_job_that_went_on_waits_anew(
        self, repository: Repository, make_spec: MakeSpec, clock: Clock
    ) -> None:
        repository.create_job(make_spec(), for_workers=True)
        for _ in range(5):
            put_back(repository, clock, "others use the devices")
        _, lease = repository.queue.claim(ELSEWHERE, TTL_S)
        result = ProbeResult(probe_id="tiny.0", outcome=Outcome.MEASURED, phase=Phase.DONE)
        repository.commit_measurement(lease, 0, 0, key="k", config=TrainingConfig(), result=result)
        repository.release(lease)
        assert put_back(repository, clock, "others use the devices") == 5.0

    def test_a_job_that_is_asked_for_anew_need_not_wait(
        self, repository: Repository, make_spec: MakeSpec, clock: Clock
    ) -> None:
        job = repository.create_job(make_spec(), for_workers=True)
        put_back(repository, clock, "others use the devices", wait=False)
        assert claimed(repository) is None
        repository.set_status(job, JobStatus.FAILED)
        repository.queue.requeue(job)
        assert claimed(repository) == "tiny"

    def test_a_job_waits_no_longer_than_it_may(
        self, repository: Repository, make_spec: MakeSpec, clock: Clock
    ) -> None:
        job = repository.create_job(make_spec(), for_workers=True)
        while repository.job(job.name).status == JobStatus.QUEUED:
            put_back(repository, clock, "no node has the devices", at_most_s=600.0)
        assert repository.job(job.name).reason == "no node has the devices"
        assert 600.0 <= (clock.now - job.created_at).total_seconds() < 600.0 + 2 * queue.MOST_PAUSE_S

    def test_a_paused_job_waits_until_it_is_asked_for(
        self, repository: Repository, make_spec: MakeSpec
    ) -> None:
        job = repository.create_job(make_spec())
        lease = repository.acquire_lease(job, ELSEWHERE, TTL_S)
        repository.set_status(lease, JobStatus.RUNNING)
        repository.set_status(lease, JobStatus.PAUSED)
        repository.release(lease)
        assert claimed(repository) is None
        assert repository.queue.requeue(job).status == JobStatus.QUEUED
        assert claimed(repository) == "tiny"
        with pytest.raises(BadInput, match="is queued; one that is paused or has failed can be resumed"):
            repository.queue.requeue(job)

    def test_a_cancelled_job_is_not_handed_out(self, repository: Repository, make_spec: MakeSpec) -> None:
        job = repository.create_job(make_spec(), for_workers=True)
        repository.set_status(job, JobStatus.CANCELLED)
        assert claimed(repository) is None

    def test_a_submission_is_found_by_its_key(self, repository: Repository, make_spec: MakeSpec) -> None:
        mark = Mark("k", "words")
        job = repository.create_job(make_spec(), for_workers=True, mark=mark)
        found = repository.submitted_as(mark)
        assert found is not None
        assert found.id == job.id
        assert repository.submitted_as(Mark("other", "words")) is None
        with pytest.raises(BadInput, match="'k' marked another submission, of job 'tiny'"):
            repository.submitted_as(Mark("k", "other words"))
        with pytest.raises(NameInUse):
            repository.create_job(make_spec("another"), for_workers=True, mark=mark)


class TestEvents:
    def test_status_and_all_else_in_the_order_it_happened(
        self, repository: Repository, make_spec: MakeSpec
    ) -> None:
        job, other = (repository.create_job(make_spec(name), for_workers=True) for name in ("a", "b"))
        found = repository.queue.claim(ELSEWHERE, TTL_S)
        assert found is not None
        repository.events.append(found[1], "probe", {"trial": 0})
        repository.set_status(found[1], JobStatus.FAILED, "out of paper")
        told = repository.events.after(job)
        assert [(event.kind, event.data) for event in told] == [
            ("status", {"status": "queued", "reason": None}),
            ("probe", {"trial": 0}),
            ("status", {"status": "failed", "reason": "out of paper"}),
        ]
        assert repository.events.after(job, told[0].id) == told[1:]
        assert repository.events.after(job, limit=1) == told[:1]
        assert repository.events.last_id(job) == told[-1].id
        assert len(repository.events.after(other)) == 1

    def test_a_driver_that_lost_its_job_tells_nothing(
        self, repository: Repository, make_spec: MakeSpec, clock: Clock
    ) -> None:
        job = repository.create_job(make_spec(), for_workers=True)
        lost = repository.queue.claim(ELSEWHERE, TTL_S)
        assert lost is not None
        clock.advance(TTL_S)
        found = repository.queue.claim(next(MORE_ELSEWHERE), TTL_S)
        assert found is not None
        repository.events.append(found[1], "log", {"text": "theirs"})
        told = repository.events.after(job)
        for write in (repository.events.append, repository.events.replace):
            with pytest.raises(LeaseLost):
                write(lost[1], "log", {"text": "late"})
        assert repository.events.after(job) == told
        repository.events.replace(found[1], "log", {"text": "later"})
        assert [event.data for event in repository.events.after(job)[1:]] == [{"text": "later"}]

    def test_what_happened_later_is_seen_later(self, fresh_postgresql_url: str, make_spec: MakeSpec) -> None:
        """PostgreSQL gives an event its id before it is committed, and may commit another before it: who has
        seen the later one would never ask for the earlier.
        """
        with Repository(fresh_postgresql_url) as repository:
            job = repository.create_job(make_spec(), for_workers=True)
            found = repository.queue.claim(ELSEWHERE, TTL_S)
            assert found is not None
            for number in range(2):
                repository.events.append(found[1], "probe", {"trial": number})
            with ThreadPoolExecutor(1) as threads, repository._transaction() as session:
                driven(session, found[1], utc_now())
                later = threads.submit(repository.events.append, found[1], "probe", {"trial": 3})
                assert wait([later], timeout=0.5).done == set()
                session.add(EventRow(job_id=job.id, kind="probe", data={"trial": 2}, created_at=utc_now()))
                session.commit()
                later.result(10)
            assert [event.data["trial"] for event in repository.events.after(job)[1:]] == [0, 1, 2, 3]


class TestSummaries:
    def test_latest_first_page_by_page(self, repository: Repository, make_spec: MakeSpec) -> None:
        for number in range(5):
            repository.create_job(make_spec(f"job{number}"))
        first = repository.summaries.latest(limit=2)
        assert [row.name for row in first] == ["job4", "job3"]
        assert [row.name for row in repository.summaries.latest(limit=9, before=first[-1].id)] == [
            "job2",
            "job1",
            "job0",
        ]

    def test_by_status_and_name(self, repository: Repository, make_spec: MakeSpec) -> None:
        for name in ("a_1", "ab1", "a_2"):
            repository.create_job(make_spec(name))
        repository.set_status(repository.job("a_2"), JobStatus.CANCELLED)
        assert [row.name for row in repository.summaries.latest(limit=9, named="a_")] == ["a_2", "a_1"]
        assert [row.name for row in repository.summaries.latest(limit=9, status=JobStatus.QUEUED)] == [
            "ab1",
            "a_1",
        ]

    @pytest.mark.parametrize(
        "found",
        [None, {"tokens_per_second": {"median": 7.5}, "speedup": {"median": 1.5, "low": 0.9}}],
        ids=["nothing", "something"],
    )
    def test_what_was_found(
        self, repository: Repository, make_spec: MakeSpec, found: dict[str, Any] | None
    ) -> None:
        job = repository.create_job(make_spec())
        lease = repository.acquire_lease(job, ELSEWHERE, TTL_S)
        repository.save_recommendation(lease, {"recommendation": found})
        (row,) = repository.summaries.latest(limit=1)
        assert (row.model, row.gpus, row.ceiling_bytes) == ("tiny", "cpu:2", 80 * 2**30)
        told = (row.tokens_per_second, row.speedup, row.speedup_low)
        assert told == ((7.5, 1.5, 0.9) if found else (None, None, None))


class TestTokens:
    def test_one_is_found_until_it_is_revoked(self, repository: Repository) -> None:
        tokens = repository.tokens
        token = tokens.create("ci", Role.SUBMIT)
        found = tokens.find(token)
        assert found is not None
        assert (found.name, found.role) == ("ci", Role.SUBMIT)
        assert tokens.find(token + "x") is None
        with pytest.raises(NameInUse, match="'ci'"):
            tokens.create("ci", Role.READ)
        assert tokens.all() == [found]
        assert tokens.revoke("ci")
        assert not tokens.revoke("ci")
        assert tokens.find(token) is None

    def test_a_role_allows_what_those_before_it_do(self) -> None:
        allowed = {role: [needed for needed in Role if role.allows(needed)] for role in Role}
        assert allowed == {
            Role.READ: [Role.READ],
            Role.SUBMIT: [Role.READ, Role.SUBMIT],
            Role.ADMIN: list(Role),
        }
