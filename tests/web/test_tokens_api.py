"""/v1/tokens: for admins alone, and secrets are told once."""

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient
from web_support import Open

from autotune.service import Service
from autotune.storage.tokens import Role

Headers = dict[str, str]


@pytest.fixture
def client(open_server: Open) -> TestClient:
    return open_server(open_to_all=False)


@pytest.fixture
def token_of(service: Service) -> Callable[[Role], Headers]:
    def token_of(role: Role) -> Headers:
        return {"Authorization": f"Bearer {service.create_token(f'by-{role}', role)}"}

    return token_of


def test_an_admin_makes_and_revokes_tokens(client: TestClient, token_of: Callable[[Role], Headers]) -> None:
    admin = token_of(Role.ADMIN)
    made = client.post("/v1/tokens", json={"name": "ci", "role": "submit"}, headers=admin)
    assert made.status_code == 201
    secret = made.json().pop("token")
    theirs = {"Authorization": f"Bearer {secret}"}
    assert client.get("/v1/jobs", headers=theirs).status_code == 200

    listed = client.get("/v1/tokens", headers=admin)
    assert [(one["name"], one["role"]) for one in listed.json()["tokens"]] == [
        ("by-admin", "admin"),
        ("ci", "submit"),
    ]
    assert secret not in listed.text
    assert "digest" not in listed.text

    assert client.delete("/v1/tokens/ci", headers=admin).status_code == 204
    assert client.get("/v1/jobs", headers=theirs).status_code == 401
    assert client.delete("/v1/tokens/ci", headers=admin).status_code == 404


@pytest.mark.parametrize("role", [Role.READ, Role.SUBMIT])
def test_others_do_not(client: TestClient, token_of: Callable[[Role], Headers], role: Role) -> None:
    theirs = token_of(role)
    for method, path in (("GET", "/v1/tokens"), ("POST", "/v1/tokens"), ("DELETE", f"/v1/tokens/by-{role}")):
        answer = client.request(method, path, headers=theirs)
        assert answer.status_code == 403
        assert "role admin" in answer.json()["detail"]
    assert client.get("/v1/jobs", headers=theirs).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "by-admin", "role": "read"}, 409),
        ({"name": "x", "role": "king"}, 422),
        ({"name": "", "role": "read"}, 422),
        ({"name": "a\0b", "role": "read"}, 422),
        ({"name": "x" * 64, "role": "read"}, 422),
        ({"name": "x", "role": "read", "token": "mine"}, 422),
    ],
)
def test_what_is_no_token(
    client: TestClient, token_of: Callable[[Role], Headers], body: Headers, status: int
) -> None:
    answer = client.post("/v1/tokens", json=body, headers=token_of(Role.ADMIN))
    assert answer.status_code == status
