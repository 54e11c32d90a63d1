"""The client against a scripted server: what it sends, what it makes of answers, of problems, of silence."""

import io
import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

import autotune
from autotune.client import JobEvent, client, events
from autotune.client.connection import PAUSES_S
from autotune.errors import BadInput, MachineFault, NameInUse, NoSuchJob, NothingMeasured, UserError
from autotune.jobs import Job, JobSpec, JobStatus
from autotune.planner import plan
from autotune.problems import STATUSES, TYPES
from autotune.report.answer import Answer, Spent
from autotune.report.job_view import JobView, job_view
from autotune.report.trials import TrialRow
from autotune.request import PlanRequest, TuneRequest, specify
from autotune.search.history import TrialState
from trials.contract.config import TrainingConfig

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


def test_a_job_is_submitted_as_the_server_takes_it(server: Server, asking: autotune.Client, spec: JobSpec):
    server.says(httpx2.Response(201, json=view(spec)))
    job = asking.submit(
        {"model_type": "llama"},
        {"nodes": [{"gpus_per_node": 2, "gpu": "H100"}]},
        name="job",
        ceiling=2 << 30,
        headroom="10%",
        set={"precision": "bf16", "micro_batch_size": range(1, 3)},
        baseline={"sharding": "fsdp"},
        idempotency_key="once",
    )
    assert isinstance(job, JobView)
    assert (job.name, job.status, job.study) == ("job", "queued", "/dashboard/studies/3")
    (request,), (body,) = server.asked, server.bodies
    assert server.paths == ["POST /autotune/v1/jobs"]
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["idempotency-key"] == "once"
    assert body["model"] == {"model_type": "llama"}
    assert body["gpus"]["nodes"][0]["gpu"] == "H100"
    assert (body["ceiling"], body["headroom"]) == (str(2 << 30), 0.1)
    assert body["settings"] == {"precision": ["bf16"], "micro_batch_size": [1, 2]}
    assert body["baseline"] == {"sharding": "fsdp"}


def test_a_submission_whose_answer_was_lost_is_sent_again_under_its_key(
    server: Server, asking: autotune.Client, spec: JobSpec, pauses: list[float]
):
    server.says(LOST, httpx2.Response(503), httpx2.Response(201, json=view(spec)))
    asking.submit("llama-20m")
    assert len({request.headers["idempotency-key"] for request in server.asked}) == 1
    assert pauses == list(PAUSES_S[:2])


def test_what_could_do_harm_twice_is_sent_again_only_if_it_never_arrived(
    server: Server, asking: autotune.Client, spec: JobSpec
):
    server.says(REFUSED, view(spec, JobStatus.CANCELLED))
    assert asking.cancel("job").status == "cancelled"
    for answer in (LOST, httpx2.Response(503)):
        server.says(answer)
        with pytest.raises(MachineFault):
            asking.resume("job")
    assert server.paths[-1] == "POST /autotune/v1/jobs/job/resume"


def test_a_server_that_is_not_there_is_said_so_in_the_end(
    server: Server, asking: autotune.Client, pauses: list[float]
):
    server.says(*[REFUSED] * (len(PAUSES_S) + 1))
    with pytest.raises(
        MachineFault, match=r"http://there:8000 cannot be reached: connection refused; see that"
    ):
        asking.job("job")
    assert pauses == list(PAUSES_S)
    server.says(*[problem("urn:autotune:problem:storage-unavailable", 503)] * (len(PAUSES_S) + 1))
    with pytest.raises(autotune.errors.StorageUnavailable, match="this and that"):
        asking.job("job")


@pytest.mark.parametrize("kind", TYPES)
def test_problems_are_our_exceptions(kind: str, server: Server):
    server.says(problem(kind, STATUSES[TYPES[kind]]))
    with (
        autotune.Client("http://x", pauses_s=(), transport=httpx2.MockTransport(server)) as asking,
        pytest.raises(TYPES[kind], match=r"^this and that$"),
    ):
        asking.job("job")


def test_every_field_that_is_wrong_is_named(server: Server, asking: autotune.Client):
    errors = [{"field": "trials", "message": "less than 1"}, {"field": "seed", "message": "no number"}]
    server.says(problem("urn:autotune:problem:bad-input", 422, "trials: less than 1", errors=errors))
    with pytest.raises(BadInput, match=r"^trials: less than 1; seed: no number$"):
        asking.submit("llama-20m", trials=0)


@pytest.mark.parametrize(
    ("response", "kind", "words"),
    [
        (
            problem("urn:autotune:problem:unauthorized", 401, "this server needs a token"),
            UserError,
            "a token",
        ),
        (problem("urn:autotune:problem:fault", 500, "a fault"), MachineFault, "a fault"),
        (httpx2.Response(404, text="<html>"), MachineFault, r"no autotune \(404 Not Found\)"),
        (httpx2.Response(200, text="<html>"), MachineFault, r"no autotune \(200 OK\)"),
        (httpx2.Response(301, headers={"Location": "https://there"}), MachineFault, "301 Moved"),
        (httpx2.Response(200, json={"surprise": 1}), MachineFault, "unknown field 'surprise'"),
        (httpx2.Response(200, json=[]), MachineFault, "use the version that the server has"),
    ],
)
def test_other_answers(
    response: httpx2.Response, kind: type[Exception], words: str, server: Server, asking: autotune.Client
):
    server.says(response)
    with pytest.raises(kind, match=words):
        asking.job("job")


@pytest.mark.parametrize("url", ["", "there:8000", "ftp://there", "http://", "http://there:x"])
def test_an_address_that_is_none(url: str):
    with pytest.raises(BadInput, match="is no address of a server"):
        autotune.Client(url)


def test_a_token_that_cannot_be_is_not_quoted(asking: autotune.Client):
    with pytest.raises(BadInput) as caught:
        autotune.Client("http://x", token="secret\nword")
    assert "secret" not in str(caught.value)
    with pytest.raises(BadInput, match="idempotency_key must be"):
        asking.submit("llama-20m", idempotency_key="a b")


def test_a_name_cannot_lead_elsewhere(server: Server, asking: autotune.Client):
    server.says(problem("urn:autotune:problem:no-such-job", 404))
    with pytest.raises(NoSuchJob):
        asking.job("../plans?x=1")
    assert server.paths == ["GET /autotune/v1/jobs/..%2Fplans%3Fx%3D1"]


def test_a_plan(server: Server, asking: autotune.Client):
    found = plan(PlanRequest("llama-20m", "H100:1", top=2))
    server.says(LOST, found.to_dict())
    assert asking.plan("llama-20m", "H100:1", top=2) == found
    assert server.bodies[-1]["top"] == 2


def test_jobs_come_page_by_page(server: Server, asking: autotune.Client):
    def row(number: int) -> dict[str, Any]:
        times = {"created_at": "2026-01-02T00:00:00Z", "updated_at": "2026-01-02T00:00:00Z"}
        return {
            "id": number, "name": f"job-{number}", "status": "running", "reason": None, "model": "m",
            "gpus": "g", "ceiling_bytes": 1, "spent_s": 0.0, "tokens_per_second": None, "speedup": None,
            **times,
        }  # fmt: skip

    server.says({"jobs": [row(3), row(2)], "next": "2"}, {"jobs": [row(1)], "next": None})
    found = asking.jobs(status="running", named="job", page=2)
    assert next(found).name == "job-3"
    assert len(server.asked) == 1
    assert [job.name for job in found] == ["job-2", "job-1"]
    assert [dict(request.url.params) for request in server.asked] == [
        {"limit": "2", "q": "job", "status": "running"},
        {"limit": "2", "q": "job", "status": "running", "before": "2"},
    ]


def test_trials_of_all_pages(server: Server, asking: autotune.Client):
    rows = [
        TrialRow(
            number=number, state=TrialState.COMPLETE, outcome=None, config=TrainingConfig(),
            tokens_per_second=None, peak_bytes=None, reason=None, seconds=1.0, reused_from=None,
            expected_gain=None, confirmations=0,
        )
        for number in range(3)
    ]  # fmt: skip
    dumped = [row.model_dump(mode="json") for row in rows]
    server.says({"trials": dumped[:2], "next": 1}, {"trials": dumped[2:], "next": None})
    assert asking.trials("job") == rows
    assert dict(server.asked[1].url.params) == {"after": "1"}


def test_events_go_on_where_the_connection_was_lost(server: Server, asking: autotune.Client):
    started = (1, "started", {"trials": 2})
    server.says(
        stream((0, "status", {"status": "running"}), started, then=LOST),
        REFUSED,
        httpx2.Response(503),
        stream((4, "standing", {"best": None})),  # the server is stopped, in order
        stream((7, "status", {"status": "finished"})),
    )
    told = list(asking.events("job"))
    assert [event.id for event in told] == [0, 1, 4, 7]
    assert told[1] == JobEvent(1, "started", {"trials": 2})
    assert [request.headers["last-event-id"] for request in server.asked] == ["0", "1", "1", "1", "4"]


def test_events_of_a_job_that_has_ended_before(server: Server, asking: autotune.Client, spec: JobSpec):
    server.says(stream(), view(spec, JobStatus.RUNNING), stream(), view(spec, JobStatus.FAILED))
    assert list(asking.events("job", after=12)) == []
    assert server.asked[0].headers["last-event-id"] == "12"


def test_a_job_that_failed_once_and_was_resumed_is_followed_to_its_end(
    server: Server, asking: autotune.Client
):
    server.says(
        stream(
            (1, "status", {"status": "failed"}),
            (2, "status", {"status": "queued"}),
            (3, "status", {"status": "finished"}),
        )
    )
    assert [event.id for event in asking.events("job")] == [1, 2, 3]


def test_events_of_no_job_and_of_no_server(server: Server, asking: autotune.Client, pauses: list[float]):
    server.says(problem("urn:autotune:problem:no-such-job", 404))
    with pytest.raises(NoSuchJob):
        next(asking.events("job"))
    server.says(*[REFUSED] * (len(PAUSES_S) + 1))
    with pytest.raises(MachineFault, match="cannot be reached"):
        next(asking.events("job"))
    server.says(httpx2.Response(200, text="<html>", headers={"Content-Type": "text/html"}))
    with pytest.raises(MachineFault):
        next(asking.events("job"))
    nonsense = b"id: 1\ndata: nonsense\n\n"
    server.says(httpx2.Response(200, content=nonsense, headers={"Content-Type": "text/event-stream"}))
    with pytest.raises(MachineFault, match="an event that is none: 'nonsense'"):
        next(asking.events("job"))


def test_waiting_ends_with_the_job(
    server: Server, asking: autotune.Client, spec: JobSpec, pauses: list[float]
):
    server.says(view(spec), view(spec, JobStatus.RUNNING), view(spec, JobStatus.FINISHED), answer().to_dict())
    assert asking.wait("job") == answer()
    assert pauses == [client.WAITING_S] * 2
    server.says(view(spec, JobStatus.PAUSED), answer(JobStatus.PAUSED).to_dict())
    assert asking.wait("job").status == "paused"
    server.says(view(spec, JobStatus.RUNNING))
    with pytest.raises(TimeoutError, match="has not ended within 0 s"):
        asking.wait("job", timeout_s=0)


def archive(files: dict[str, str]) -> httpx2.Response:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, text in files.items():
            opened.writestr(name, text)
    return httpx2.Response(200, content=buffer.getvalue(), headers={"Content-Type": "application/zip"})


def test_files_are_taken(server: Server, asking: autotune.Client, tmp_path: Path):
    server.says(archive({"job-deepspeed/ds_config.json": "{}", "job-deepspeed/launch.sh": "exit"}))
    written = asking.download("job", "deepspeed", tmp_path / "a" / "b")
    assert server.paths == ["GET /autotune/v1/jobs/job/exports/deepspeed"]
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        "a/b/ds_config.json",
        "a/b/launch.sh",
    ]
    assert written[0].read_text() == "{}"
    assert [bool(path.stat().st_mode & 0o100) for path in written] == [False, True]


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (archive({"job/..": "x"}), MachineFault),
        (archive({"job/.profile": "x"}), MachineFault),
        (archive({"job/a b": "x"}), MachineFault),
        (archive({"job/large": "0" * (client.MOST_EXPORT_BYTES + 1)}), MachineFault),
        (httpx2.Response(200, content=b"no archive"), MachineFault),
        (problem("urn:autotune:problem:nothing-measured", 409), NothingMeasured),
    ],
)
def test_files_that_are_none_are_not(
    response: httpx2.Response, kind: type[Exception], server: Server, asking: autotune.Client, tmp_path: Path
):
    server.says(response)
    with pytest.raises(kind):
        asking.download("job", "deepspeed", tmp_path / "files")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(server: Server, asking: autotune.Client, tmp_path: Path):
    (tmp_path / "file").write_text("")
    server.says(archive({"job/launch.sh": "x"}))
    with pytest.raises(BadInput, match="choose another folder"):
        asking.download("job", "torchrun", tmp_path / "file")


def test_nothing_to_explain_and_a_name_in_use(server: Server, asking: autotune.Client):
    server.says(problem("urn:autotune:problem:nothing-measured", 409))
    with pytest.raises(NothingMeasured):
        asking.explanation("job")
    server.says(problem("urn:autotune:problem:name-in-use", 409))
    with pytest.raises(NameInUse):
        asking.submit("llama-20m", name="job")


def test_what_ends_a_job_is_final_or_a_failure():
    resting = {JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED}
    assert set(events.ENDED) == set(JobStatus) - resting
