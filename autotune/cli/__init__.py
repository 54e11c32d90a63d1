"""The command line."""

import io
import signal
import sys
from typing import NoReturn

import typer

from autotune.cli.commands import app
from autotune.cli.ending import INTERRUPTED, fail, sentence
from autotune.cli.options import environment
from autotune.errors import AutotuneError, BadInput

__all__ = ["app", "main"]


def main() -> NoReturn:
    """Run the command line and exit with the code that its epilog lists."""
    from trials.contract.message import ContractError

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # not what nohup has switched off
            signal.signal(number, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no × still shows the rest
    try:
        _check_encoding(sys.argv)
        code = app(standalone_mode=False, prog_name="autotune")
    except typer.TyperException as error:  # an unknown command or option, a missing or malformed value
        fail(f"{sentence(error)}; see --help", BadInput.exit_code)
    except ContractError as error:
        fail(str(error), BadInput.exit_code)
    except AutotuneError as error:
        fail(str(error), error.exit_code)
    except Exception as error:
        if environment().log_level == "debug":
            raise
        words = str(error).partition("\n")[0][:300]
        fail(
            f"a fault of autotune's or of this machine's: {type(error).__name__}: {words}; "
            "AUTOTUNE_LOG_LEVEL=debug shows where",
            AutotuneError.exit_code,
        )
    if code == INTERRUPTED:  # typer's word for a KeyboardInterrupt
        fail("interrupted", INTERRUPTED)
    sys.exit(code)


def _check_encoding(words: list[str]) -> None:
    """Raise BadInput for bytes that are no text: neither a database nor a terminal would take them."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise BadInput(f"{word!a} is not UTF-8 text") from None


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
