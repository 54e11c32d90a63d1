"""An empty folder to work in, the command line in it, and jobs that are already in a database."""

import json
import shutil
from pathlib import Path

import pytest
from cli_support import TINY, Cli
from fakes import FakeExecutor

from autotune.errors import NothingMeasured
from autotune.request import TuneRequest
from autotune.service import Service
from trials.contract.outcome import Outcome

RECORDED = TuneRequest(
    model="llama-20m",
    gpus="cpu:2",
    name="recorded",
    ceiling="2GiB",
    settings={"micro_batch_size": (1, 2, 3, 4), "precision": ("bf16", "fp32"), "sharding": ("ddp", "fsdp")},
    trials=8,
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a small model in it and nothing of AUTOTUNE_* around it."""
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("AUTOTUNE_STORAGE", "AUTOTUNE_RAY_ADDRESS", "AUTOTUNE_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def cli(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(monkeypatch, capsys)


@pytest.fixture(scope="session")
def recorded_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with two jobs of a scripted executor: one that is finished, one that came to nothing."""
    file = tmp_path_factory.mktemp("recorded") / "autotune.db"
    outcomes = {"recorded": Outcome.MEASURED, "hopeless": Outcome.NON_FINITE}
    for name, outcome in outcomes.items():
        executor = FakeExecutor(lambda config, attempt, outcome=outcome: outcome)
        request = TuneRequest(**{**vars(RECORDED), "name": name, "fresh": True})
        with Service(f"sqlite:///{file}", {"ray": lambda layout, address, own=executor: own}) as service:
            if outcome == Outcome.MEASURED:
                service.tune(request, lambda event: None)
            else:
                with pytest.raises(NothingMeasured):
                    service.tune(request, lambda event: None)
    return file


@pytest.fixture
def recorded(home: Path, recorded_database: Path) -> None:
    """The jobs `recorded` and `hopeless` are in the default database."""
    shutil.copy(recorded_database, home / "autotune.db")
