"""Who may do what: tokens by header and by cookie, and nobody without one but on this machine."""

import pytest
from starlette.testclient import TestClient
from web_support import JOB, JSON, Open

from autotune.errors import StorageUnavailable
from autotune.service import Service
from autotune.storage.tokens import Role
from autotune.web.auth import COOKIE

SECRET = "correct horse battery staple"
EVERYWHERE = ("/v1/jobs", "/v1/models", "/metrics", "/openapi.json", "/dashboard", "/api/studies", "/jobs")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def client(open_server: Open) -> TestClient:
    """A server that asks for a token."""
    return open_server(open_to_all=False, token=SECRET)


@pytest.mark.parametrize("path", EVERYWHERE)
def test_without_a_token_nothing_is_told(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["type"] == "urn:autotune:problem:unauthorized"


@pytest.mark.parametrize("path", EVERYWHERE)
def test_with_it_everything_is(client: TestClient, path: str) -> None:
    assert client.get(path, headers=bearer(SECRET)).status_code == 200


@pytest.mark.parametrize("token", ["", "wrong", SECRET + "x", SECRET[:-1], "x" * 100_000, "ü"])
def test_a_wrong_one_opens_nothing(client: TestClient, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}".encode()}
    assert client.get("/v1/jobs", headers=headers).status_code == 401
    assert client.post("/v1/jobs", json=JOB, headers=headers).status_code == 401
    assert client.get("/v1/jobs", cookies={COOKIE: "wrong"}).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/login"])
def test_what_says_nothing_of_anybody_is_open(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200


def test_a_token_set_is_asked_for_on_this_machine_too(open_server: Open) -> None:
    assert open_server(open_to_all=True, token=SECRET).get("/v1/jobs").status_code == 401
    assert open_server(open_to_all=True).get("/v1/jobs").status_code == 200


@pytest.mark.parametrize(("role", "may_submit"), [("read", False), ("submit", True), ("admin", True)])
def test_roles(open_server: Open, service: Service, role: str, may_submit: bool) -> None:
    client = open_server(open_to_all=False)
    headers = bearer(service.create_token("somebody", Role(role)))
    assert client.get("/v1/jobs", headers=headers).status_code == 200
    assert client.post("/v1/plans", json=JSON, headers=headers).status_code == 200
    answer = client.post("/v1/jobs", json=JOB, headers=headers)
    assert answer.status_code == (201 if may_submit else 403)
    if not may_submit:
        assert "role submit" in answer.json()["detail"]
    service.revoke_token("somebody")
    assert client.get("/v1/jobs", headers=headers).status_code == 401


def test_a_database_that_is_away_is_no_fault_of_a_token(
    open_server: Open, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client asks again after a 503, and after no other of these."""

    def away(token: str) -> None:
        raise StorageUnavailable("cannot reach postgresql://db.internal/autotune")

    monkeypatch.setattr(service, "role_of", away)
    answer = open_server(open_to_all=False).get("/v1/jobs", headers=bearer("some"))
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:autotune:problem:storage-unavailable"
    assert "db.internal" not in answer.text, "whoever has no token is not told where the database is"


def test_whether_it_is_ready_is_told_to_all_and_why_not_to_the_log(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away() -> None:
        raise StorageUnavailable("cannot reach postgresql://db.internal/autotune")

    monkeypatch.setattr(service, "check", away)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("the database does not answer")
    assert "db.internal" not in answer.text
    assert "db.internal" in caplog.text


def test_a_page_sends_those_without_a_token_to_the_login(client: TestClient) -> None:
    answer = client.get("/jobs/some", headers={"Accept": "text/html"})
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/login?next=/jobs/some"


def test_a_login_is_a_cookie_that_scripts_and_other_sites_do_not_have(client: TestClient) -> None:
    answer = client.post("/login", data={"token": f" {SECRET} ", "next": "/jobs/some"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/jobs/some")
    cookie = answer.headers["Set-Cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/v1/jobs").status_code == 200
    client.post("/logout")
    assert client.get("/v1/jobs").status_code == 401


@pytest.mark.parametrize(
    ("origin", "secure"),
    [("https://tuner.example", True), ("http://tuner.example", False), ("http://10.0.0.7:8000", False)],
)
def test_what_was_said_over_tls_goes_over_nothing_else(open_server: Open, origin: str, secure: bool) -> None:
    """A proxy with TLS asks by HTTP; what the browser sees is in the Origin of its form."""
    client = open_server(open_to_all=False, token=SECRET, hosts="*")
    headers = {"Origin": origin, "Host": origin.partition("//")[2]}
    cookie = client.post("/login", data={"token": SECRET}, headers=headers).headers["Set-Cookie"]
    assert ("; secure" in cookie.lower()) == secure


@pytest.mark.parametrize("role", list(Role))
def test_everybody_may_log_out(open_server: Open, service: Service, role: Role) -> None:
    client = open_server(open_to_all=False)
    client.post("/login", data={"token": service.create_token("somebody", role)})
    assert client.get("/v1/jobs").status_code == 200
    assert client.post("/logout", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    answer = client.post("/logout")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
    assert client.get("/v1/jobs").status_code == 401


@pytest.mark.parametrize("page", ["/jobs", "/jobs/new", "/jobs/compare", "/jobs/some"])
def test_every_page_has_a_way_out_for_who_logged_in(client: TestClient, page: str) -> None:
    way_out = '<form method="post" action="/logout">'
    assert way_out not in client.get(page, headers=bearer(SECRET)).text
    client.post("/login", data={"token": SECRET})
    assert way_out in client.get(page).text


def test_a_wrong_login_says_so(client: TestClient) -> None:
    answer = client.post("/login", data={"token": "wrong", "next": "/jobs"})
    assert answer.headers["Location"] == "/login?wrong=1&next=/jobs"
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("elsewhere", ["https://evil.example", "//evil.example", "/\\evil.example", "evil"])
def test_a_login_leads_nowhere_else(client: TestClient, elsewhere: str) -> None:
    answer = client.post("/login", data={"token": SECRET, "next": elsewhere})
    assert answer.headers["Location"] == "/"
