"""A module of `trials` run in a process of its own: what builds models needs torch, and may hang or die."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trials
from autotune.errors import MachineFault

INHERITED = (
    "PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH",
)  # fmt: skip
"""What such a process may see of the environment: no credentials."""


@dataclass(frozen=True)
class Finished:
    answer: bytes | None
    """What it wrote, or None where it came to nothing."""
    status: str
    """In words, how it ended."""
    last_line: str
    """Of what it printed."""


def run_module(module: str, request: str, deadline_s: float) -> Finished:
    """Run `python -P -m MODULE REQUEST ANSWER` to its end; nothing that it started outlives it.

    Raises MachineFault where no process starts.
    """
    with tempfile.TemporaryDirectory(prefix="autotune-") as folder:
        asked, answer, output = (Path(folder) / name for name in ("request.json", "answer.json", "output"))
        asked.write_text(request)
        status = _run([sys.executable, "-P", "-m", module, str(asked), str(answer)], output, deadline_s)
        found = answer.read_bytes() if answer.exists() else None
        return Finished(found, status, _last_line(output))


def _run(command: list[str], output: Path, deadline_s: float) -> str:
    with output.open("wb") as stream:
        try:
            process = subprocess.Popen(
                command,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        except OSError as error:
            raise MachineFault(f"cannot start {sys.executable}: {error.strerror}") from None
        try:
            code = process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            return f"took more than {deadline_s:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _environment() -> dict[str, str]:
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    paths = [str(Path(trials.__file__).parents[1]), inherited.get("PYTHONPATH")]
    return inherited | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",  # it needs no device, and a factory must not take one
        "OMP_NUM_THREADS": "1",
    }


def _last_line(output: Path) -> str:
    lines = output.read_bytes()[-2000:].decode(errors="replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
