"""The shape of a model that only its own code knows: built by `trials.describe` in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import trials
from autotune.errors import BadInput, MachineFault
from autotune.models.shape import ModelShape
from trials.contract.messages import ModelSpec

DEADLINE_S = 120.0
"""Importing torch and transformers takes seconds, a factory that builds 7B for real under a minute."""

INHERITED = (
    "PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH",
)  # fmt: skip
"""What a build may see of the environment: no credentials."""


@dataclass(frozen=True)
class Description:
    shape: ModelShape
    factory_version: str | None
    notes: tuple[str, ...]


def describe(spec: ModelSpec, deadline_s: float = DEADLINE_S) -> Description:
    """Build the model of `spec` without memory where it allows that, and return what it is.

    Raises BadInput with the reason where it cannot be built, and MachineFault where no process starts.
    """
    with tempfile.TemporaryDirectory(prefix="autotune-describe-") as folder:
        request, answer, output = (Path(folder) / name for name in ("spec.json", "out.json", "output"))
        request.write_text(spec.to_json())
        status = _run(request, answer, output, deadline_s)
        if not answer.exists():
            raise BadInput(f"building {spec.name} {status}{_last_line(output)}")
        found: dict[str, Any] = json.loads(answer.read_text())
    if "error" in found:
        raise BadInput(found["error"])
    return Description(
        shape=ModelShape(**{item.name: found[item.name] for item in fields(ModelShape)}),
        factory_version=found["factory_version"],
        notes=tuple(found["notes"]),
    )


def _run(request: Path, answer: Path, output: Path, deadline_s: float) -> str:
    """Run the process to its end and say in words how it ended; nothing that it started outlives it."""
    command = [sys.executable, "-P", "-m", "trials.describe", str(request), str(answer)]
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
        "CUDA_VISIBLE_DEVICES": "",  # a description needs no device, and a factory must not take one
        "OMP_NUM_THREADS": "1",
    }


def _last_line(output: Path) -> str:
    lines = output.read_bytes()[-2000:].decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last[:300]}" if last else ""
