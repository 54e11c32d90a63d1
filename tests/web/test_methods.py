"""Methods: those that a path does not take are named, and HEAD is a GET without its body."""

import pytest
from starlette.testclient import TestClient
from web_support import Open


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/jobs", "GET, HEAD, POST"),
        ("PUT", "/v1/jobs/some", "GET, HEAD"),
        ("GET", "/v1/plans", "POST"),
        ("GET", "/v1/jobs/some/cancel", "POST"),
        ("POST", "/jobs", "GET, HEAD"),
        ("DELETE", "/login", "GET, HEAD, POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("POST", "/dashboard", "GET, HEAD"),
    ],
)
def test_a_path_says_what_it_takes(client: TestClient, method: str, path: str, allowed: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == allowed
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("method", ["GET", "DELETE", "BREW"])
@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/v1/jobs/some/nothing", "/jobs/"])
def test_a_path_that_is_none_takes_nothing(client: TestClient, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 404


PATHS = ("/jobs", "/jobs/new", "/login", "/healthz", "/readyz", "/v1/jobs", "/assets/style.css", "/dashboard")


@pytest.mark.parametrize("path", [*PATHS, "/", "/nothing", "/v1/plans", "/v1/jobs/nosuch/events"])
def test_head_is_a_get_without_its_body(client: TestClient, path: str) -> None:
    told, answer = client.get(path), client.head(path)
    assert answer.status_code == told.status_code
    assert answer.headers.keys() == told.headers.keys()
    assert answer.content == b""


def test_who_may_not_get_may_not_head(open_server: Open) -> None:
    client = open_server(open_to_all=False, token="secret")
    assert client.head("/v1/jobs").status_code == 401
    assert client.head("/healthz").status_code == 200
