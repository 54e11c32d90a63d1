"""Who waits for a database that is away, and for how long."""

from contextlib import contextmanager

import pytest

from autotune.errors import LeaseLost, StorageUnavailable
from autotune.storage import patience
from autotune.storage.patience import patient


class Away:
    """Fails so often before it answers."""

    def __init__(self, failures: int, error: type[BaseException] = StorageUnavailable) -> None:
        self.failures = failures
        self.tries = 0
        self._error = error

    def answer(self, word: str) -> str:
        self.tries += 1
        if self.tries <= self.failures:
            raise self._error("away")
        return word


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "AGAIN_S", 0.01)


def test_what_is_away_for_a_while_is_waited_for() -> None:
    away = Away(3)
    assert patient(away).answer("back") == "back"
    assert away.tries == 4


def test_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.05)
    with pytest.raises(StorageUnavailable):
        patient(Away(10**6)).answer("back")


@pytest.mark.parametrize("error", [LeaseLost, KeyboardInterrupt, KeyError])
def test_all_else_is_told_at_once(error: type[BaseException]) -> None:
    away = Away(1, error)
    with pytest.raises(error):
        patient(away).answer("back")
    assert away.tries == 1


def test_who_waits_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(patience.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        patient(Away(1)).answer("back")


def test_each_attempt_is_made_within_what_maps_its_exceptions() -> None:
    @contextmanager
    def mapped():
        try:
            yield
        except KeyError as error:
            raise StorageUnavailable("mapped") from error

    assert patient(Away(2, KeyError), mapped).answer("back") == "back"
