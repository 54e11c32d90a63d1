"""What people see on a terminal: live progress of a search, and answers as tables."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from autotune.search.events import Listener
from autotune.terminal.answers import answer_view, trials_view
from autotune.terminal.explanations import job_explanation_view
from autotune.terminal.listings import (
    gpus_view,
    jobs_view,
    models_view,
    narrowed_view,
    spaces_view,
    tokens_view,
)
from autotune.terminal.live import LiveProgress
from autotune.terminal.plain import PlainProgress
from autotune.terminal.plans import explanation_view, plan_view

__all__ = [
    "answer_view",
    "console",
    "explanation_view",
    "gpus_view",
    "job_explanation_view",
    "jobs_view",
    "models_view",
    "narrowed_view",
    "plan_view",
    "progress",
    "spaces_view",
    "tokens_view",
    "trials_view",
]

PLAIN_WIDTH = 150
"""Columns where nothing says how many there are: wide enough that no table is folded."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let it through: rich would end the program here, before the job is marked as paused."""
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """As wide as the terminal, or as COLUMNS says."""
    found = _Console(stderr=stderr)
    if found.file.isatty() or "COLUMNS" in os.environ:
        return found
    return _Console(stderr=stderr, width=PLAIN_WIDTH)


@contextmanager
def progress(console: Console) -> Iterator[Listener]:
    """A listener that draws on a terminal, or writes a line per probe elsewhere."""
    if not (console.file.isatty() and console.is_interactive):
        yield PlainProgress(console)
        return
    view = LiveProgress(console)
    with Live(view, console=console, refresh_per_second=4) as live:
        try:
            yield view
        finally:
            view.close()
            live.transient = not view.has_begun
