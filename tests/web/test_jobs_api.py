"""/v1: a job from its submission to its files, and everything that can be wrong with one."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from web_support import JOB, JSON, Open

from autotune.service import Service


def test_a_job_from_submission_to_its_files(client: TestClient, work: Callable[[], None]) -> None:
    made = client.post("/v1/jobs", json=JOB)
    assert made.status_code == 201
    name = made.json()["name"]
    path = f"/v1/jobs/{name}"
    assert made.headers["Location"] == path
    assert made.json()["status"] == "queued"
    assert client.get(f"{path}/recommendation").json()["recommendation"] is None
    assert client.get(f"{path}/explanation").status_code == 409
    assert client.get(f"{path}/exports").json() == {"formats": []}

    work()
    job = client.get(path).json()
    assert job["status"] == "finished"
    assert client.get(job["study"]).status_code == 200
    answer = client.get(f"{path}/recommendation").json()
    assert answer["recommendation"]["evidence"] == "confirmed"
    trials = client.get(f"{path}/trials").json()
    assert [trial["number"] for trial in trials["trials"]] == [0, 1, 2, 3]
    assert trials["next"] is None
    assert client.get(f"{path}/explanation").json()["trial"] == answer["recommendation"]["trial"]
    formats = {one["format"]: one["files"] for one in client.get(f"{path}/exports").json()["formats"]}
    assert "launch.sh" in formats["torchrun"]

    archive = zipfile.ZipFile(io.BytesIO(client.get(f"{path}/exports/torchrun").content))
    assert {entry.split("/")[1] for entry in archive.namelist()} == set(formats["torchrun"])
    script = client.get(f"{path}/exports/torchrun/launch.sh")
    assert script.text.encode() == archive.read(f"{name}-torchrun/launch.sh")
    (listed,) = client.get("/v1/jobs").json()["jobs"]
    assert listed["tokens_per_second"] == answer["recommendation"]["tokens_per_second"]["median"]


def test_the_same_submission_sent_again_is_one_job(client: TestClient) -> None:
    key = {"Idempotency-Key": "one"}
    first, again = (client.post("/v1/jobs", json=JOB, headers=key) for _ in range(2))
    assert first.json()["name"] == again.json()["name"]
    other = client.post("/v1/jobs", json={**JOB, "trials": 5}, headers=key)
    assert other.status_code == 422
    assert "marked another submission" in other.json()["detail"]


def test_a_config_of_ones_own_and_a_space_and_gpus_as_objects(client: TestClient) -> None:
    model = {
        "model_type": "llama", "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    space = {"name": "mine", "dimensions": {"micro_batch_size": [1, 2], "sequence_length": [32]}}
    body = {**JSON, "model": model, "model_name": "my-llama", "space": space}
    plan = client.post("/v1/plans", json=body).json()
    assert (plan["model"], plan["space"]) == ("my-llama", "mine")
    assert plan["candidates"] == 2
    made = client.post("/v1/jobs", json={**body, "name": "own"})
    assert made.status_code == 201, made.text
    assert made.json()["model"] == "my-llama"


def test_where_nothing_fits_a_plan_says_what_would(client: TestClient) -> None:
    plan = client.post("/v1/plans", json={"model": "llama-3.1-70b", "gpus": "4090:1", "space": "single_gpu"})
    assert plan.status_code == 200
    assert plan.json()["fitting"] == 0
    assert plan.json()["nearest"]["fits"] is False
    assert plan.json()["advice"]


def test_pages_of_a_list(client: TestClient) -> None:
    names = [client.post("/v1/jobs", json=JOB).json()["name"] for _ in range(5)]
    seen, cursor = [], None
    while True:
        page = client.get("/v1/jobs", params={"limit": 2, **({"before": cursor} if cursor else {})}).json()
        seen += [job["name"] for job in page["jobs"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == names[::-1]
    assert [j["name"] for j in client.get("/v1/jobs", params={"q": names[2]}).json()["jobs"]] == [names[2]]
    assert client.get("/v1/jobs", params={"status": "running"}).json()["jobs"] == []


def test_pages_of_trials(client: TestClient, finished: str) -> None:
    path = f"/v1/jobs/{finished}/trials"
    first = client.get(path, params={"limit": 3}).json()
    rest = client.get(path, params={"after": first["next"]}).json()
    every = client.get(path).json()
    assert first["trials"] + rest["trials"] == every["trials"]
    assert rest["next"] is None


def test_candidates_are_forecasts_under_the_ceiling_spread_over_their_speeds(
    client: TestClient, finished: str
) -> None:
    found = client.get(f"/v1/jobs/{finished}/candidates", params={"limit": 5}).json()["candidates"]
    speeds = [one["tokens_per_second"] for one in found]
    assert len(found) == 5
    assert speeds == sorted(speeds, reverse=True)
    assert all(one["peak_bytes"] > 0 for one in found)


def test_cancel_and_resume(client: TestClient, work: Callable[[], None]) -> None:
    name = client.post("/v1/jobs", json=JOB).json()["name"]
    resumed = client.post(f"/v1/jobs/{name}/resume")
    assert resumed.status_code == 409
    assert resumed.json()["type"] == "urn:autotune:problem:wrong-status"
    assert client.post(f"/v1/jobs/{name}/cancel").json()["status"] == "cancelled"
    work()
    assert client.get(f"/v1/jobs/{name}").json()["status"] == "cancelled"
    again = client.post(f"/v1/jobs/{name}/cancel")
    assert again.status_code == 409
    assert again.json()["detail"] == "a job that is cancelled has ended, and stays so"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": "llama-3.1-8"}, "model"),
    ({"model": "../../etc/passwd"}, "model"),
    ({"model": "/etc/passwd"}, "model"),
    ({"model": "config.json"}, "model"),
    ({"model": "os:getcwd"}, "model"),
    ({"model": 7}, "model"),
    ({"gpus": "/etc/inventory.json"}, "gpus"),
    ({"gpus": "inventory.yaml"}, "gpus"),
    ({"gpus": "H1000:8"}, "gpus"),
    ({"gpus": "H100:99999999999999999999"}, "gpus"),
    ({"space": "../presets/cpu"}, "space"),
    ({"space": "nosuch"}, "space"),
    ({"space": {"dimensions": {"micro_batch_size": [0]}}}, "space"),
    ({"unknown": 1}, "unknown"),
    ({"headroom": 1.5}, "headroom"),
    ({"headroom": "nan"}, "headroom"),
    ({"ceiling": "much"}, "ceiling"),
    ({"ceiling": "900TiB"}, "ceiling"),
    ({"model": {"model_type": "nosuch"}}, "model"),
    ({"settings": {"nosuch": [1]}}, "settings"),
    ({"settings": {"micro_batch_size": []}}, "settings.micro_batch_size"),
    ({"global_batch_size": 0}, "global_batch_size"),
]
WRONG_JOBS: list[tuple[dict[str, Any], str]] = [
    ({"name": "../x"}, "name"),
    ({"name": ""}, "name"),
    ({"name": "compare"}, "name"),
    ({"trials": 0}, "trials"),
    ({"baseline": {"nosuch": 1}}, "baseline"),
    ({"sampler": "nosuch"}, "sampler"),
    ({"gpu_hours": 1}, "gpu_hours"),
    ({"executor": "elsewhere"}, "executor"),
    ({"ray_address": "10.0.0.1:6379"}, "ray_address"),
]


@pytest.mark.parametrize(("change", "field"), [*WRONG, *WRONG_JOBS], ids=str)
def test_what_is_wrong_with_a_job_is_named(client: TestClient, change: dict[str, Any], field: str) -> None:
    answer = client.post("/v1/jobs", json={**JOB, **change})
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert "\n" not in problem["detail"]
    assert "--" not in problem["detail"]
    assert problem["errors"][0]["field"].startswith(field)
    assert client.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize(("change", "field"), WRONG, ids=str)
def test_and_with_a_plan(client: TestClient, change: dict[str, Any], field: str) -> None:
    answer = client.post("/v1/plans", json={**JSON, **change})
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["errors"][0]["field"].startswith(field)


@pytest.mark.parametrize("name", ["inv.yaml", "inv.yaml ", " inv.yaml\n", "./inv.yaml", "inv.YML", "folder"])
@pytest.mark.parametrize("field", ["model", "gpus", "space"])
def test_no_file_of_the_server_is_read(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("inv.yaml", "inv.YML", "folder/config.json"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text('{"model_type": "hush"}')
    answer = client.post("/v1/jobs", json={**JOB, field: name})
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["errors"][0]["field"].startswith(field)
    for told in ("hush", "model_type", "must hold", "nodes", "no such file"):
        assert told not in answer.text


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b'"llama"', b"\xff", b"{" * 100_000, b'{"model": NaN}', b'{"\\ud800": 1}'],
    ids=repr,
)
def test_what_is_no_submission_at_all(client: TestClient, body: bytes) -> None:
    answer = client.post("/v1/jobs", content=body[:100_000], headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["type"].startswith("urn:autotune:problem:")


def test_a_config_that_asks_for_code_gets_none(client: TestClient) -> None:
    """Like everywhere in autotune: what would load code is left out, and said so."""
    model = {
        "model_type": "llama", "auto_map": {"AutoModel": "evil--modeling.Evil"}, "trust_remote_code": True,
        "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    answer = client.post("/v1/plans", json={**JSON, "model": model, "settings": {"sequence_length": [32]}})
    if answer.status_code == 200:
        assert "auto_map" in json.dumps(answer.json()["notes"])
    else:
        assert answer.status_code == 422
        assert "auto_map" in answer.json()["detail"] or "trust_remote_code" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["nosuch", "..%2Fetc", "%2e%2e", "a" * 64, "x%00y", "ü", "-"])
@pytest.mark.parametrize("rest", ["", "/trials", "/recommendation", "/events", "/exports/torchrun"])
def test_a_job_that_is_none_here(client: TestClient, name: str, rest: str) -> None:
    answer = client.get(f"/v1/jobs/{name}{rest}")
    assert answer.status_code in (404, 422)
    assert answer.headers["Content-Type"] == "application/problem+json"


MISSING = ("exports/nosuch", "exports/nosuch/launch.sh", "trials/999/log")


@pytest.mark.parametrize("path", [*MISSING, "exports/torchrun/nosuch.sh"])
def test_what_a_job_does_not_have_is_not_found(client: TestClient, finished: str, path: str) -> None:
    answer = client.get(f"/v1/jobs/{finished}/{path}")
    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:autotune:problem:not-found"


@pytest.mark.parametrize("path", MISSING)
def test_nor_before_it_has_anything(client: TestClient, path: str) -> None:
    name = client.post("/v1/jobs", json=JOB).json()["name"]
    assert client.get(f"/v1/jobs/{name}/{path}").status_code == 404
    assert client.get(f"/v1/jobs/{name}/exports/torchrun").status_code == 409


def test_files_elsewhere_are_none_of_a_jobs(client: TestClient, finished: str) -> None:
    assert client.get(f"/v1/jobs/{finished}/exports/torchrun/..%2F..%2Fjobs.db").status_code in (404, 422)
    assert client.get(f"/v1/jobs/{finished}/nosuch").status_code == 404


def test_a_factory_only_from_the_list_of_those_allowed(open_server: Open) -> None:
    refused = open_server().post("/v1/plans", json={**JSON, "model": "tiny:build"})
    assert refused.status_code == 422
    assert "AUTOTUNE_FACTORIES" in refused.json()["detail"]
    allowed = open_server(factories="other:one, tiny:build").post(
        "/v1/plans", json={**JSON, "model": "tiny:build"}
    )
    assert "AUTOTUNE_FACTORIES" not in allowed.text


def test_a_fault_of_ours_tells_no_secrets(client: TestClient, service: Service, monkeypatch: Any) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("postgresql://user:hunter2@host")

    monkeypatch.setattr(service, "job", broken)
    answer = client.get("/v1/jobs/some")
    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_metrics_count_by_route_and_status(client: TestClient, finished: str) -> None:
    client.get(f"/v1/jobs/{finished}")
    client.get("/v1/jobs/nosuch")
    text = client.get("/metrics").text
    assert 'autotune_requests_total{method="GET",route="/v1/jobs/{name}",status="200"} 1.0' in text
    assert 'autotune_requests_total{method="GET",route="/v1/jobs/{name}",status="404"} 1.0' in text
    assert 'autotune_jobs{status="finished"} 1.0' in text
    assert "nosuch" not in text


def test_a_fault_is_counted_and_guarded_like_any_answer(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "job", lambda name: 1 / 0)
    answer = client.get("/v1/jobs/some")
    assert answer.status_code == 500
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert 'route="/v1/jobs/{name}",status="500"} 1.0' in client.get("/metrics").text


def test_a_fault_in_what_stands_before_handlers_is_a_problem_too(
    open_server: Open, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "role_of", lambda token: 1 / 0)
    answer = open_server(open_to_all=False).get("/v1/jobs", headers={"Authorization": "Bearer some"})
    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
