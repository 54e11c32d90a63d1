"""What the client sends, and what it makes of answers, of problems, of silence."""

from typing import Any

import httpx2
import pytest
from scripted import LOST, REFUSED, Server, problem, view

import autotune
from autotune.client import events
from autotune.client.connection import PAUSES_S
from autotune.errors import BadInput, MachineFault, NameInUse, NoSuchJob, NothingMeasured, UserError
from autotune.jobs import JobSpec, JobStatus
from autotune.planner import plan
from autotune.problems import STATUSES, TYPES
from autotune.report.job_view import JobView
from autotune.report.trials import TrialRow
from autotune.request import PlanRequest
from autotune.search.history import TrialState
from trials.contract.config import TrainingConfig


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
