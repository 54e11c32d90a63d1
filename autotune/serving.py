"""`autotune serve`: the app in this process, workers in processes of their own beside it."""

import gc
import ipaddress
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import uvicorn

from autotune.errors import BadInput, ExecutionUnavailable
from autotune.service import Service
from autotune.settings import Settings
from autotune.web.app import create_app

GRACE_S = 5
"""For requests that are being answered when the server is told to stop."""
WORKER_GRACE_S = 30.0
"""For a worker to end its probes and give its job back."""
CHECK_S = 0.5
LEAST_LIFE_S = 5.0
"""A worker that ends sooner is not started again at once."""

logger = logging.getLogger(__name__)


def serve(settings: Settings, host: str, port: int, num_workers: int) -> None:
    """Serve until SIGINT or SIGTERM; running jobs go back to the queue then.

    Raises BadInput where others can reach it while no token is set, StorageUnavailable where the database
    cannot be used, ExecutionUnavailable where it cannot listen.
    """
    reached = _reached_by_others(settings, host)
    with Service(settings.storage) as service:
        app = create_app(service, settings, open_to_all=reached is None)
        if reached is not None and settings.token is None and not service.tokens():
            raise BadInput(
                f"{reached} others can reach this server, so it needs a token: set AUTOTUNE_TOKEN, or "
                "make one with `autotune tokens --add NAME`"
            )
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
            proxy_headers=False,
        )
        server = _Server(config)
        # What is imported stays: a full collection that looks through all of it delays an answer by 140 ms.
        gc.freeze()
        with _listening(host, port) as sockets, suppress(KeyboardInterrupt), _workers(settings, num_workers):
            server.run(sockets)


class _Server(uvicorn.Server):
    """Says where it is."""

    async def startup(self, sockets: "list[socket.socket] | None" = None) -> None:
        await super().startup(sockets)
        if self.started:
            for one in self.servers:
                for listening in one.sockets:
                    host, port = listening.getsockname()[:2]
                    shown = f"[{host}]" if ":" in host else host
                    print(f"autotune serves on http://{shown}:{port}", flush=True)


@contextmanager
def _listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Sockets on all addresses of `host`. Not uvicorn's: where it finds one taken, it ends the process."""
    with ExitStack() as opened:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            sockets = [
                opened.enter_context(_listening_at(address, family))
                for family, address in dict.fromkeys((family, address) for family, *_, address in found)
            ]
        except OSError as error:
            why = str(error.strerror).partition(" (")[0]  # before the address, which is said already
            raise ExecutionUnavailable(
                f"the server cannot listen on {host} port {port}: {why}; choose another --host or --port"
            ) from error
        yield sockets


def _listening_at(address: Any, family: int) -> socket.socket:
    server = socket.create_server(address, family=family)
    # Which asyncio does for sockets it made itself; those that are accepted have it from here. Without it the
    # second part of an answer waits for the client's word on the first, for 40 ms.
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return server


def _reached_by_others(settings: Settings, host: str) -> str | None:
    """How, where they do: by an address, or by a name that a proxy on this machine hands on."""
    if not is_loopback(host):
        return f"on {host}"
    return f"as {settings.hosts} (AUTOTUNE_HOSTS)" if settings.known_hosts else None


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _workers(settings: Settings, count: int) -> Iterator[None]:
    """So many workers, each started anew when it ends by itself, and all ended when the server is."""
    stop = threading.Event()
    threads = [threading.Thread(target=_keep_a_worker, args=(settings, stop)) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _keep_a_worker(settings: Settings, stop: threading.Event) -> None:
    while not stop.is_set():
        started = time.monotonic()
        worker = _start_worker(settings)
        while worker.poll() is None and not stop.wait(CHECK_S):
            pass
        if stop.is_set():
            _end(worker)
            return
        logger.warning("a worker ended by itself with exit code %s; another is started", worker.returncode)
        stop.wait(max(0.0, LEAST_LIFE_S - (time.monotonic() - started)))


def _start_worker(settings: Settings) -> "subprocess.Popen[bytes]":
    """It ends when its stdin does, so with this process, however that ends."""
    environment = {**os.environ, "AUTOTUNE_STORAGE": settings.storage}
    if settings.ray_address is not None:
        environment["AUTOTUNE_RAY_ADDRESS"] = settings.ray_address
    words = [sys.executable, "-P", "-m", "autotune", "worker", "--until-stdin-ends"]
    # A group of its own: Ctrl-C in a terminal is for the server, which ends its workers in turn.
    return subprocess.Popen(words, stdin=subprocess.PIPE, env=environment, process_group=0)


def _end(worker: "subprocess.Popen[bytes]") -> None:
    worker.terminate()
    try:
        worker.wait(WORKER_GRACE_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
