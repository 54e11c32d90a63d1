"""`autotune serve`: where it listens, and who needs a token there."""

import socket

import pytest
import uvicorn

from autotune import serving
from autotune.errors import BadInput, ExecutionUnavailable
from autotune.serving import is_loopback, serve
from autotune.settings import Settings


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
        ("::", False), ("192.168.0.7", False), ("tuner.example", False),
    ],
)  # fmt: skip
def test_which_addresses_only_this_machine_reaches(host: str, private: bool) -> None:
    assert is_loopback(host) == private


@pytest.mark.parametrize(
    ("host", "hosts"), [("0.0.0.0", ""), ("127.0.0.1", "tuner.example"), ("127.0.0.1", "*")]
)
def test_a_server_that_others_reach_needs_a_token(
    url: str, monkeypatch: pytest.MonkeyPatch, host: str, hosts: str
) -> None:
    """By its address, or by a name that a proxy before it hands on."""
    monkeypatch.delenv("AUTOTUNE_TOKEN", raising=False)
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: pytest.fail("it serves"))
    with pytest.raises(
        BadInput, match="needs a token: set AUTOTUNE_TOKEN, or make one with `autotune tokens"
    ):
        serve(Settings(storage=url, hosts=hosts), host, 0, 0)


def test_a_port_that_is_taken_is_said_before_there_is_a_worker(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_start_worker", lambda _: pytest.fail("a worker is started"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = f"cannot listen on 127.0.0.1 port {port}: Address already in use; choose another --host"
        with pytest.raises(ExecutionUnavailable, match=said):
            serve(Settings(storage=url), "127.0.0.1", port, 1)


@pytest.mark.parametrize("host", ["203.0.113.7", "nowhere.invalid"])
def test_so_is_an_address_that_this_machine_does_not_have(url: str, host: str) -> None:
    with pytest.raises(ExecutionUnavailable, match=f"cannot listen on {host} port 0: "):
        serve(Settings(storage=url, token="secret"), host, 0, 0)


def test_what_it_listens_on_is_its_until_it_ends(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[socket.socket] = []

    def run(_: uvicorn.Server, sockets: list[socket.socket]) -> None:
        seen.extend(sockets)
        for one in sockets:
            socket.create_connection(one.getsockname()[:2]).close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    serve(Settings(storage=url), "localhost", 0, 0)
    assert seen
    assert all(one.fileno() == -1 for one in seen)


def test_answers_wait_for_no_word_of_the_client(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio sees to that for sockets that it opens itself, and not for those that it is given."""
    undelayed: list[int] = []

    def run(_: uvicorn.Server, sockets: list[socket.socket]) -> None:
        with socket.create_connection(sockets[0].getsockname()[:2]):
            accepted, _address = sockets[0].accept()
            with accepted:
                undelayed.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(uvicorn.Server, "run", run)
    serve(Settings(storage=url), "127.0.0.1", 0, 0)
    assert undelayed == [1]
