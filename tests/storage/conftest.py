"""What the storage tests share: a database of each kind, opened, and a job to record."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from storage_support import Clock, Crew

from autotune.jobs import JobSpec
from autotune.storage.repository import Repository
from trials.contract.messages import ModelSpec


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database: each test that asks for it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'autotune.db'}"
    fresh: str = request.getfixturevalue("fresh_postgresql_url")
    return fresh


@pytest.fixture(scope="session")
def at_once() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.dismiss()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repository(url: str, clock: Clock) -> Iterator[Repository]:
    with Repository(url, clock) as opened:
        yield opened


@pytest.fixture
def make_spec() -> Callable[..., JobSpec]:
    def make(name: str = "tiny", **fields: Any) -> JobSpec:
        required = {
            "model": ModelSpec(name="tiny", hf_config={"model_type": "llama", "hidden_size": 64}),
            "shape": {"num_layers": 2},
            "gpus": "cpu:2",
            "inventory": {"groups": [{"num_nodes": 1, "gpus_per_node": 2}]},
            "world_size": 2,
            "ceiling_bytes": 80 * 2**30,
            "space": {"micro_batch_size": [1, 2, 3]},
        }
        return JobSpec.model_validate({"name": name, **required, **fields})

    return make
