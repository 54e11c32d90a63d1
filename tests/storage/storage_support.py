"""What storage tests import: a clock that stands still, and processes that act at the same moment."""

import multiprocessing
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Crew:
    """Processes that do the same thing at the same moment, as often as told."""

    SIZE = 4

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._start = spawn.Barrier(self.SIZE)  # kept: it would be gone before a member has it
        self._members = []
        for _ in range(self.SIZE):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_member, args=(theirs, self._start), daemon=True)
            process.start()
            theirs.close()  # so that a member's death is an EOFError here
            self._members.append((process, ours))

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return what a module-level function returned in each member, or how it failed, in words."""
        for _, connection in self._members:
            connection.send((function, arguments))
        return [connection.recv() for _, connection in self._members]

    def dismiss(self) -> None:
        for process, connection in self._members:
            connection.close()
            process.join(10)


def _member(connection: Any, start: Any) -> None:
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        start.wait(60)
        try:
            connection.send(function(*arguments))
        except Exception as error:
            # In words, since not every exception of a library survives pickling.
            connection.send(f"{type(error).__name__}: {error}")
