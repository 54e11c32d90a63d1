"""The whole service in this process, on a port of its own."""

import socket
import threading
import time
from collections.abc import Callable

import uvicorn
from fakes import FakeExecutor
from playwright.sync_api import Page

from autotune.execution.executor import Executor
from autotune.record import Record
from autotune.request import TuneRequest
from autotune.search.events import Listener
from autotune.service import Service
from autotune.settings import Settings
from autotune.web.app import create_app
from autotune.worker import Worker

Look = Callable[[str], Page]
FOUND = 20_000
"""Milliseconds for what takes the server a moment."""


class Served:
    """Can be stopped and started again where it was."""

    def __init__(self, storage: str) -> None:
        self.storage = storage
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._service = Service(self.storage)
        app = create_app(self._service, Settings(storage=self.storage), open_to_all=True)
        config = uvicorn.Config(
            app, port=self._port, log_level="error", timeout_graceful_shutdown=1, lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._service.close()

    def tune(self, request: TuneRequest, executor: Executor, listener: Listener) -> None:
        """Drive a job from a terminal beside the server."""
        probes = dict.fromkeys(("ray", "local"), lambda layout, address: executor)
        with Service(self.storage, probes) as service:
            service.tune(request, listener)

    def work(self, executor: Executor | None = None) -> None:
        """Drive the jobs that wait, with probes in memory where nothing else runs them."""
        record = Record(self.storage)
        worker = Worker(
            record, dict.fromkeys(("ray", "local"), lambda layout, address: executor or FakeExecutor())
        )
        while worker.work_once():
            pass
        record.close()
