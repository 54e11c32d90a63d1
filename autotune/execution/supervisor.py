"""The owner's end of a supervisor: start it, give it a node's share of a probe, end it."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from trials.contract.constants import engine_constants
from trials.contract.messages import DeviceKind, NodeShare, RankReport
from trials.contract.outcome import Outcome, Phase

PREPARATION_S = 600.0
"""Imports, and operators that DeepSpeed compiles once per machine (one to two minutes each)."""

PASSED_ON = (
    "HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "TMPDIR", "TZ",
    "USER", "VIRTUAL_ENV", "XDG_CACHE_HOME",
)  # fmt: skip
PASSED_ON_PREFIXES = ("CUDA_", "GLOO_", "LC_", "NCCL_", "NVIDIA_", "TORCH_", "TORCHINDUCTOR_", "TRITON_")
"""A probe's environment is what is named here and nothing else; credentials stay with the driver."""


def probe_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a supervisor, and so of everything that runs a probe."""
    passed = {k: v for k, v in environment.items() if k in PASSED_ON or k.startswith(PASSED_ON_PREFIXES)}
    return passed | {
        # One thread per rank; helper threads would not survive the fork either.
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        # Nothing is looked up or downloaded.
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Asking whether there is CUDA must not initialise it in the process that forks.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        "PYTORCH_CUDA_ALLOC_CONF": engine_constants(0).cuda_allocator,
    }


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as candidate:
        candidate.bind(("", 0))
        port: int = candidate.getsockname()[1]
        return port


class Supervisor:
    """One supervised zygote, kept warm from probe to probe and replaced when it is lost.

    `run` is for one thread at a time; `cancel` and `close` may come from another.
    """

    def __init__(self, device: DeviceKind, visible_gpus: str | None = None) -> None:
        self._device = device
        self._visible_gpus = visible_gpus
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._probes = 0
        self._lock = threading.Lock()
        self._busy = False
        self._closed = False

    def run(self, share: NodeShare) -> list[RankReport]:
        """Run one node's share of a probe; always one report for each of its ranks."""
        with self._lock:
            if self._closed:
                return interrupted(share, "the executor was closed")
            self._busy = True
            process = self._living_process()
        try:
            assert self._folder is not None
            self._probes += 1
            folder = self._folder / f"probe-{self._probes}"
            folder.mkdir()
            request = {"share": share.model_dump(mode="json"), "folder": str(folder)}
            answer = _exchange(process, json.dumps(request), share.request.deadline_s + PREPARATION_S)
        finally:
            self._busy = False
        if answer is None:
            reason = f"the probe's supervisor was killed or failed{self._last_words()}"
            self._end()
            return interrupted(share, "cancelled" if self._closed else reason)
        return [RankReport.model_validate(report) for report in json.loads(answer)]

    def cancel(self) -> None:
        """End the running probe as interrupted; the zygote stays."""
        with self._lock:
            if self._busy and self._process is not None and self._process.stdin is not None:
                try:
                    os.write(self._process.stdin.fileno(), b"cancel\n")
                except OSError:  # it is ending already
                    return

    def close(self) -> None:
        """End the supervisor and everything below it; returns when all is gone."""
        with self._lock:
            self._closed = True
            self._end()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def _living_process(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._start()
        assert self._process is not None
        return self._process

    def _start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="autotune-"))
        environment = probe_environment(os.environ)
        if self._visible_gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self._visible_gpus
        with (self._folder / "supervisor.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "trials.supervisor",
                    self._device,
                    str(os.getpid()),
                    str(self._folder),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def _end(self) -> None:
        """SIGTERM lets the supervisor clean up; whatever is left of its session is killed then."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _kill_session(process.pid)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _last_words(self) -> str:
        log = self._folder / "supervisor.log" if self._folder else None
        if log is None or not log.exists():
            return ""
        lines = log.read_text(errors="replace").strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""


def _exchange(process: subprocess.Popen[bytes], line: str, limit_s: float) -> bytes | None:
    """Send a line, wait for the answering one; None when the other end is gone or silent for too long."""
    assert process.stdin is not None
    assert process.stdout is not None
    until = time.monotonic() + limit_s
    answer = b""
    try:
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()
        while not answer.endswith(b"\n"):
            if not select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                return None
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                return None
            answer += chunk
    except (OSError, ValueError):  # the pipe broke, or was closed by `close`
        return None
    return answer


def _kill_session(session: int) -> None:
    """Kill what is left of a supervisor's session: it was killed itself and could not clean up."""
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def interrupted(share: NodeShare, reason: str) -> list[RankReport]:
    """The reports of ranks that ended for a reason outside them."""
    return [
        RankReport(rank=rank, outcome=Outcome.INTERRUPTED, phase=Phase.START, reason=reason)
        for rank in share.ranks
    ]
