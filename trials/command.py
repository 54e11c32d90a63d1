"""What the commands of this package share: a ProbeRequest from a file, a result into one, plain errors."""

import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trials.contract.message import ContractError, Message
from trials.contract.messages import ProbeRequest
from trials.quiet import quiet_libraries

Result = TypeVar("Result", bound=Message)


class BadInput(Exception):
    """What the command was given cannot be used; the message is one sentence."""


def run_command(
    arguments: list[str],
    usage: str,
    work: Callable[[ProbeRequest], Result],
    summary: Callable[[Result], str],
) -> int:
    """`request.json result.json`: read the one, write the other whole or not at all, print one line.

    Returns the exit code: 1 where the machine failed, 2 for bad input, 130 when interrupted.
    """
    quiet_libraries()
    if arguments in (["-h"], ["--help"]):
        print(usage)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        request, target = _read(arguments, usage)
        result = work(request)
        _write(target, result.model_dump_json(indent=2) + "\n")
    except BadInput as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except OSError as error:
        return _fail(f"the machine failed: {error}", 1)
    print(summary(result))
    return 0


def _fail(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


def _read(arguments: list[str], usage: str) -> tuple[ProbeRequest, Path]:
    """The request, and where its result can be written. Raises BadInput."""
    if len(arguments) != 2:
        raise BadInput(usage)
    source, target = map(Path, arguments)
    try:
        request = ProbeRequest.parse(source.read_bytes())
    except OSError as error:
        raise BadInput(f"{source} cannot be read: {error.strerror}") from error
    except ContractError as error:
        raise BadInput(f"{source} is not a probe request: {error}") from error
    if target.is_dir():
        raise BadInput(f"{target} cannot be written: it is a folder")
    try:
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:  # better now than after the work
        raise BadInput(f"{target} cannot be written: {error.strerror}") from error
    return request, target


def _write(target: Path, text: str) -> None:
    """All of it or nothing."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_text(text)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
