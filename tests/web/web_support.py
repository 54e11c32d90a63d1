"""What tests of the server ask it, and by which name."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from fakes import FakeExecutor
from starlette.testclient import TestClient

from autotune.record import Record
from autotune.worker import Worker

BASE_URL = "http://127.0.0.1:8000"
JSON = {"model": "llama-20m", "gpus": "cpu:2", "ceiling": "2GiB"}
JOB = {
    **JSON,
    "trials": 4,
    "settings": {"micro_batch_size": [1, 2, 3, 4], "precision": ["bf16", "fp32"], "sharding": ["ddp"]},
}

Open = Callable[..., TestClient]


def work_on(url: str) -> None:
    """Drive the jobs that wait."""
    worker = Worker(Record(url), dict.fromkeys(("ray", "local"), lambda layout, address: FakeExecutor()))
    while worker.work_once():
        pass


def copy_database(source: Path, target: Path) -> None:
    """Fill a SQLite file, which may be open, with what another holds: faster than making it anew."""
    with closing(sqlite3.connect(source)) as had, closing(sqlite3.connect(target)) as gets:
        had.backup(gets)
