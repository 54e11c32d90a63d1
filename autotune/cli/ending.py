"""How the program ends: one sentence and an exit code, whatever happened."""

import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

import typer

INTERRUPTED = 130


def fail(message: str, code: int) -> NoReturn:
    """Say it in one line, whatever the message of a library had in it."""
    with suppress(OSError, AttributeError):  # nobody listens, or stderr is closed
        print("autotune:", *message.split(), file=sys.stderr)
    sys.exit(code)


def hang_up() -> NoReturn:
    """End quietly when whoever read our output has gone, as with `| head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
    sys.exit(0)


def ignore_signals() -> None:
    """What is left is to let go of workers and database; another Ctrl-C would only make noise."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def sentence(error: typer.TyperException) -> str:
    words = error.format_message().replace("Value error, ", "").replace("Input should", "it should")
    return words.rstrip(".").replace(".. ", "; ").replace(". ", "; ")
