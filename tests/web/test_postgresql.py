"""What PostgreSQL does not take, and SQLite does: ids beyond 32 bits, NUL and half a character in text."""

import json
from typing import Any

import pytest
from fakes import FakeExecutor
from small_job import REQUEST, service_with
from starlette.testclient import TestClient
from web_support import JOB, JSON, work_on

FARTHEST = 2**31 - 1
BEYOND = (2**31, 10**17, 999999999999999999)


@pytest.fixture(scope="module")
def url(postgresql_url_of_module: str) -> str:
    return postgresql_url_of_module


@pytest.fixture(scope="module")
def finished(url: str) -> str:
    """A job that has a recommendation; no test here adds another."""
    with service_with(url, FakeExecutor()) as service:
        service.submit(REQUEST)
    work_on(url)
    return REQUEST.name or ""


@pytest.mark.parametrize("id_", BEYOND)
def test_ids_that_no_row_has_are_refused(client: TestClient, finished: str, id_: int) -> None:
    events = f"/v1/jobs/{finished}/events"
    for field, answer in (
        ("before", client.get("/v1/jobs", params={"before": id_})),
        ("after", client.get(events, params={"after": id_})),
        ("Last-Event-ID", client.get(events, headers={"Last-Event-ID": str(id_)})),
        ("after", client.get(f"/v1/jobs/{finished}/trials", params={"after": id_})),
        ("number", client.get(f"/v1/jobs/{finished}/trials/{id_}/log")),
    ):
        assert answer.status_code == 422, (field, answer.text)
        assert answer.json()["errors"][0]["field"].lower() == field.lower()


def test_the_largest_are_taken(client: TestClient, finished: str) -> None:
    assert len(client.get("/v1/jobs", params={"before": FARTHEST}).json()["jobs"]) == 1
    answer = client.get(f"/v1/jobs/{finished}/events", headers={"Last-Event-ID": str(FARTHEST)})
    assert (answer.status_code, answer.text) == (200, "")


def test_a_name_with_nul_in_it_is_looked_for_nowhere(client: TestClient) -> None:
    answer = client.get("/v1/jobs", params={"q": "a\0"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "q"


SPACE = {"name": "x", "dimensions": {"micro_batch_size": [1, 2]}}
UNKEPT: list[tuple[str, Any]] = [
    ("space", SPACE | {"name": "x\0y"}),
    ("space", SPACE | {"dimensions": {"micro_batch_size": [1], "x\0": [1]}}),
    ("space", SPACE | {"name": "x\ud800"}),
    ("model", {"model_type": "llama", "hidden_size": 32, "deep": [[{"x": ["\0"]}]]}),
    ("model", "llama\0"),
    ("model_name", "llama\0"),
    ("gpus", {"nodes": [{"gpus_per_node": 1, "gpu": "T4\0"}]}),
    ("settings", {"micro_batch_size\0": [1]}),
    ("name", "a\0"),
    ("baseline", {"sharding": "ddp\0"}),
    ("sampler", "x\0"),
    ("x\0", 1),
]


@pytest.mark.parametrize(("field", "given"), UNKEPT, ids=str)
def test_text_that_cannot_be_kept_is_refused(
    client: TestClient, finished: str, field: str, given: Any
) -> None:
    # Not by `json=`, which cannot send half a character; others can, as an escape.
    body = json.dumps(JOB | {field: given})
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"].startswith(field)
    assert [job["name"] for job in client.get("/v1/jobs").json()["jobs"]] == [finished]


def test_what_is_nested_deeply_is_looked_through(client: TestClient) -> None:
    model: Any = "\0"
    for _ in range(400):
        model = [model]
    answer = client.post("/v1/plans", json=JSON | {"model": {"model_type": "llama", "deep": model}})
    assert answer.status_code == 422
    assert "NUL" in answer.json()["detail"]
