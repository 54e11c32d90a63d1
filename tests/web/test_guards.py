"""What never reaches the service: other names, other sites, bodies that are too large."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient
from web_support import JSON, Open

PLAN = "/v1/plans"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:9", "LOCALHOST", "[::1]:8000"])
def test_it_is_asked_by_the_names_of_this_machine(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "127.0.0.1@evil.example", "["]
)
def test_no_other_name_is_answered(client: TestClient, host: str) -> None:
    answer = client.get("/healthz", headers={"Host": host})
    assert answer.status_code == 421
    assert answer.json()["type"] == "urn:autotune:problem:misdirected"


def test_more_names_are_a_setting(open_server: Open) -> None:
    client = open_server(hosts="tuner.example, other.example")
    assert client.get("/healthz", headers={"Host": "Tuner.Example:8000"}).status_code == 200
    assert client.get("/healthz", headers={"Host": "third.example"}).status_code == 421
    assert open_server(hosts="*").get("/healthz", headers={"Host": "third.example"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "http://["},
    ],
)
def test_another_sites_page_changes_nothing(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.post("/v1/jobs", json=JSON, headers=headers)
    assert answer.status_code == 403
    assert answer.json()["type"] == "urn:autotune:problem:cross-site"
    assert client.get("/v1/jobs", headers=headers).json()["jobs"] == []


@pytest.mark.parametrize(
    "headers",
    [{}, {"Sec-Fetch-Site": "same-origin", "Origin": "x"}, {"Origin": "http://127.0.0.1:8000"}],
)
def test_our_own_pages_and_scripts_may(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post(PLAN, json=JSON, headers=headers).status_code == 200


def test_a_form_of_another_site_is_no_json(client: TestClient) -> None:
    """What a browser sends without asking first has one of these types."""
    body = b'{"model": "llama-20m", "gpus": "cpu:2"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = client.post("/v1/jobs", content=body, headers={"Content-Type": kind})
        assert answer.status_code == 422, kind


def test_a_body_may_be_so_large_and_no_larger(open_server: Open) -> None:
    client = open_server(max_body_bytes=1000)
    assert client.post(PLAN, json=JSON).status_code == 200
    answer = client.post(PLAN, json={**JSON, "model": "x" * 1000})
    assert answer.status_code == 413
    assert "1,000 bytes" in answer.json()["detail"]


def test_nor_where_nobody_said_how_large_it_is(open_server: Open) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b'{"model": "' + b"x" * 100

    answer = open_server(max_body_bytes=1000).post(PLAN, content=endless())
    assert answer.status_code == 413


@pytest.mark.parametrize("length", ["-1", "many", "1e9"])
def test_a_length_that_is_none(client: TestClient, length: str) -> None:
    answer = client.post(PLAN, content=b"{}", headers={"Content-Length": length})
    assert answer.status_code == 413


@pytest.mark.parametrize("path", ["/healthz", "/v1/jobs", "/v1/jobs/nosuch", "/nothing", "/dashboard"])
def test_browsers_are_told_what_pages_may_do(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert "default-src 'self'" in headers["Content-Security-Policy"] or path == "/dashboard"
    assert "script-src" in headers["Content-Security-Policy"] or path != "/dashboard"
