"""The Optuna dashboard: every study, feasible and not, and nothing to be changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import MIB, FakeExecutor, peak_of
from small_job import REQUEST, changed, service_with
from starlette.testclient import TestClient
from web_support import copy_database, work_on

from autotune.service import Service
from autotune.web.dashboard import ShownStorage
from trials.contract.config import TrainingConfig
from trials.contract.outcome import Outcome

USABLE_BYTES = int(1650 * MIB * 0.95)


@pytest.fixture(scope="module")
def searched(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a job whose fastest trials hold more than is usable, and whose largest ran out of
    memory.
    """
    path = tmp_path_factory.mktemp("searched") / "jobs.db"
    copy_database(empty_database, path)
    sizes = {**REQUEST.settings, "micro_batch_size": (1, 2, 3, 4, 5)}
    with service_with(f"sqlite:///{path}", FakeExecutor()) as service:
        job = service.submit(changed(settings=sizes, ceiling="1650MiB", trials=16, stop_below=0.0))
        work_on(f"sqlite:///{path}")
        assert service.answer(job.name).counts[Outcome.OUT_OF_MEMORY] > 0
    return path


@pytest.fixture
def study(database_file: Path, service: Service, searched: Path) -> int:
    """Of that job."""
    copy_database(searched, database_file)
    return int((service.view(REQUEST.name or "").study or "").rpartition("/")[2])


@pytest.mark.parametrize("path", ["/dashboard", "/static/bundle.js", "/api/studies", "/api/meta"])
@pytest.mark.parametrize("encoding", ["gzip", None])
def test_its_page_and_what_that_asks_for(client: TestClient, path: str, encoding: str | None) -> None:
    headers = {"Accept-Encoding": encoding} if encoding else {}
    if encoding is None:
        del client.headers["Accept-Encoding"]
    answer = client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text[:200]
    assert answer.content


def test_the_best_is_feasible_and_the_infeasible_say_so(client: TestClient, study: int) -> None:
    shown = client.get(f"/api/studies/{study}", params={"after": 0}).json()
    for trial in shown["trials"]:
        too_large = peak_of(_config(trial)) > USABLE_BYTES
        assert (max(trial["constraints"]) > 0) == too_large
    (best,) = shown["best_trials"]
    fastest = max(shown["trials"], key=lambda trial: trial["values"][0])
    assert peak_of(_config(fastest)) > USABLE_BYTES, "else it would be the best anyway"
    assert peak_of(_config(best)) <= USABLE_BYTES


def _config(trial: dict[str, Any]) -> TrainingConfig:
    return TrainingConfig.parse(next(a["value"] for a in trial["user_attrs"] if a["key"] == "config"))


def test_what_is_kept_of_a_probe_is_an_artifact_of_its_trial(client: TestClient, study: int) -> None:
    trials = client.get(f"/api/studies/{study}", params={"after": 0}).json()["trials"]
    for trial in trials:
        (artifact,) = trial["artifacts"]
        answer = client.get(f"/artifacts/{study}/{trial['trial_id']}/{artifact['artifact_id']}")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert f"{trial['number']}.0: " in answer.text
    assert client.get(f"/artifacts/{study}/{trials[0]['trial_id']}/abc-123").status_code == 404


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT", "PATCH"])
@pytest.mark.parametrize("path", ["/api/studies/{study}", "/api/studies", "/api/trials/1/tell"])
def test_it_changes_nothing(client: TestClient, study: int, method: str, path: str) -> None:
    answer = client.request(method, path.format(study=study), json={})
    assert answer.status_code == 405
    assert client.get(f"/api/studies/{study}").status_code == 200


def test_what_is_nowhere_is_a_problem_like_every_other(client: TestClient) -> None:
    answer = client.get("/nothing/here")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_it_shows_what_is_new_while_it_runs(
    client: TestClient, service: Service, work: Callable[[], None]
) -> None:
    service.submit(REQUEST)
    assert client.get("/api/studies").json()["study_summaries"] == []
    work()
    (summary,) = client.get("/api/studies").json()["study_summaries"]
    assert summary["study_name"] == REQUEST.name


FAR = 10**30


@pytest.mark.parametrize(
    "path",
    [
        f"/csv/{FAR}",
        "/csv/999",
        f"/artifacts/{FAR}/1-1",
        f"/artifacts/{FAR}/1/1-1",
        f"/artifacts/1/{FAR}/1-1",
        "/artifacts/1/1/1-999",
        "/artifacts/1/1/--",
        f"/artifacts/1/1/{FAR:x}-1",
        f"/artifacts/1/1/1-{FAR:x}",
        "/artifacts/999/1/1-1",
        "/artifacts/1/999/1-1",
        f"/artifacts/1/{'9' * 5000}/1-1",
        f"/api/studies/{FAR}",
        f"/api/studies/{FAR}/param_importances",
    ],
)
def test_what_there_is_none_of_is_not_found(client: TestClient, study: int, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404, answer.text


def test_what_it_fails_by_is_a_fault_like_any_other(
    client: TestClient, study: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShownStorage, "get_study_name_from_id", lambda *_: 1 / 0)
    answer = client.get(f"/csv/{study}")
    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"
