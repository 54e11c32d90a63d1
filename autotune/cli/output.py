"""What goes to stdout and stderr: progress, answers, JSON."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autotune.cli.ending import INTERRUPTED, fail, hang_up, ignore_signals

if TYPE_CHECKING:
    from autotune.report.answer import Answer
    from autotune.search.events import Event, Listener
    from autotune.service import Service


def drive(service: "Service", job: "Callable[[Listener], Answer]", as_json: bool) -> None:
    """Run a job with its progress shown; on stderr where stdout is for JSON.

    A job that comes to nothing has an answer too, which says so.
    """
    from autotune import terminal
    from autotune.errors import NothingFits, NothingMeasured
    from autotune.search.events import JobStarted

    name: str | None = None
    try:
        with terminal.progress(terminal.console(stderr=as_json)) as draw:

            def listener(event: "Event") -> None:
                nonlocal name
                if isinstance(event, JobStarted):
                    name = event.name
                try:
                    draw(event)
                except BrokenPipeError:  # nobody watches any more: stop, and leave the job to be resumed
                    raise KeyboardInterrupt from None

            answer = job(listener)
    except KeyboardInterrupt:
        ignore_signals()
        words = " before the job was recorded" if name is None else f"; `autotune resume {name}` goes on"
        fail(f"interrupted{words}", INTERRUPTED)
    except (NothingFits, NothingMeasured):
        if as_json and name is not None:
            show_answer(service, service.answer(name), as_json)
        raise
    show_answer(service, answer, as_json)


def show_answer(service: "Service", answer: "Answer", as_json: bool) -> None:
    show(answer.to_dict(), lambda view: view.answer_view(answer, service.export_formats(answer)), as_json)


def show(data: dict[str, Any], view: Callable[[Any], Any], as_json: bool) -> None:
    """One JSON object, or what `view` makes of it with the terminal module."""
    from autotune import terminal

    shown = json.dumps(data, indent=2, default=str) if as_json else view(terminal)
    try:
        if isinstance(shown, str):
            print(shown, flush=True)
        else:
            terminal.console().print(shown)
    except BrokenPipeError:
        hang_up()
