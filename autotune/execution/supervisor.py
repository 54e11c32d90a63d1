"""The owner's end of a supervisor: start it, give it a node's share of a probe, end it."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

from autotune.errors import ExecutionUnavailable
from autotune.execution.environment import FOLDER_VARIABLE, probe_environment
from autotune.execution.shipping import Files, placed
from autotune.execution.versions import versions_here
from trials.contract.messages import DeviceKind, NodeShare, RankReport, Versions
from trials.contract.outcome import Outcome, Phase
from trials.contract.probe_log import running_log

PREPARATION_S = 600.0
"""Imports, and operators that DeepSpeed compiles once per machine (one to two minutes each)."""

CLOSED = "the executor was closed"
PYTHON_FAILED = 1
"""Exit status of an interpreter that an exception ended."""


class SupervisorLost(Exception):
    """It was killed, or failed, while it had a probe, which is interrupted; the message says which."""


class Supervisor:
    """One supervised zygote, kept warm from probe to probe and replaced when it is lost.

    `run` is for one thread at a time; `cancel` and `close` may come from another.
    """

    def __init__(self, device: DeviceKind, visible_gpus: str | None = None) -> None:
        self._device = device
        self._visible_gpus = visible_gpus
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._log: IO[bytes] | None = None
        self._probes = 0
        self._answered = False
        """Whether the present process has shown that it can run a probe."""
        self._lock = threading.Lock()
        self._running: str | None = None
        self._scratch: Path | None = None
        """Folder of the running probe."""
        self._cancelled: str | None = None
        self._closed = False

    def run(self, share: NodeShare, files: Files | None = None) -> list[RankReport]:
        """Run one node's share of a probe; one report for each of its ranks.

        `files`: what its factory is imported from, where the folder is not to be found here.

        Raises SupervisorLost, and ExecutionUnavailable when no supervisor can be started.
        """
        with self._lock:
            if self._closed:
                return interrupted(share, CLOSED)
            if self._cancelled == share.request.probe_id:
                return interrupted(share, "cancelled")
            process = self._living_process()
            folder = self._scratch_folder()
            if files is not None:
                with _or_unavailable("the files of a factory cannot be written"):
                    share = placed(share, files, folder / "factory")
            self._running, self._scratch = share.request.probe_id, folder
            sent = _send(process, json.dumps({"share": share.model_dump(mode="json"), "folder": str(folder)}))
        try:
            answer = _receive(process, share.request.deadline_s + PREPARATION_S) if sent else None
        finally:
            self._running = self._scratch = None
            shutil.rmtree(folder, ignore_errors=True)
        if answer is None:
            why = self._why_lost(process)
            if self._closed:
                return interrupted(share, CLOSED)
            raise SupervisorLost(why)
        self._answered = True
        return [RankReport.model_validate(report) for report in json.loads(answer)]

    def log(self) -> str:
        """How far the running probe has come, and what it printed last; empty where none runs."""
        scratch = self._scratch
        return "" if scratch is None else running_log(scratch)

    def versions(self) -> Versions | None:
        """What its probes are measured with; None where nothing can tell."""
        return versions_here(self._device, self._visible())

    def cancel(self, probe_id: str) -> None:
        """End this probe, which runs or is about to, as interrupted; the zygote stays."""
        with self._lock:
            self._cancelled = probe_id
            if self._running == probe_id and self._process is not None:
                _send(self._process, "cancel")

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
            self._process = self._start()
        return self._process

    def _start(self) -> subprocess.Popen[bytes]:
        with _or_unavailable("a probe's supervisor cannot be started"):
            self._folder = Path(tempfile.mkdtemp(prefix="autotune-"))
            environment = probe_environment(os.environ, self._device) | self._visible()
            environment[FOLDER_VARIABLE] = str(self._folder)
            module = ["-P", "-m", "trials.supervisor", self._device, str(os.getpid()), str(self._folder)]
            self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by _end
            return subprocess.Popen(
                [sys.executable, *module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                bufsize=0,
                env=environment,
                start_new_session=True,
            )

    def _visible(self) -> dict[str, str]:
        return {} if self._visible_gpus is None else {"CUDA_VISIBLE_DEVICES": self._visible_gpus}

    def _scratch_folder(self) -> Path:
        """A new folder for one probe."""
        assert self._folder is not None
        self._probes += 1
        folder = self._folder / f"probe-{self._probes}"
        with _or_unavailable("a probe's scratch folder cannot be made"):
            folder.mkdir(parents=True)  # tidy machines remove an idle job's temporary folder
        return folder

    def _why_lost(self, process: subprocess.Popen[bytes]) -> str:
        """Clear away a supervisor that gave no answer; raises ExecutionUnavailable if it never can."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1.0)
        with self._lock:
            answered, last_words = self._answered, self._last_words()
            self._end()
        if process.returncode == PYTHON_FAILED:
            if not answered and not self._closed:
                raise ExecutionUnavailable(f"a probe's supervisor cannot be started: {last_words}")
            return f"the probe's supervisor failed: {last_words}"
        return "the probe's supervisor was killed"

    def _end(self) -> None:
        """SIGTERM lets the supervisor clean up; what one that was killed left behind goes then."""
        process, self._process = self._process, None
        self._answered = False
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert self._folder is not None
        _kill_marked(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)
        for file in (process.stdin, process.stdout, self._log):
            if file is not None:
                file.close()

    def _last_words(self) -> str:
        """The last line that the supervisor or the zygote wrote to stderr."""
        if self._log is None or self._log.closed:
            return "it said nothing"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"


@contextlib.contextmanager
def _or_unavailable(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExecutionUnavailable(f"{what}: {error}") from error


def _send(process: subprocess.Popen[bytes], line: str) -> bool:
    """Write a line to the zygote; False when it is gone."""
    assert process.stdin is not None
    rest = line.encode() + b"\n"
    try:
        while rest:
            rest = rest[process.stdin.write(rest) :]
    except (OSError, ValueError):  # the pipe broke, or was closed by `close`
        return False
    return True


def _receive(process: subprocess.Popen[bytes], limit_s: float) -> bytes | None:
    """Wait for a line of the zygote's; None when it is gone or silent for too long."""
    assert process.stdout is not None
    until = time.monotonic() + limit_s
    answer = b""
    with contextlib.ExitStack() as on_exit:
        try:
            # The end of the pipe does not tell: a fork of a rank's may hold it open.
            pipe, ended = process.stdout.fileno(), os.pidfd_open(process.pid)
            on_exit.callback(os.close, ended)
            while not answer.endswith(b"\n"):
                left_s = max(0.0, until - time.monotonic())
                if pipe not in select.select([pipe, ended], [], [], left_s)[0]:
                    return None
                chunk = os.read(pipe, 1 << 16)
                if not chunk:
                    return None
                answer += chunk
        except (OSError, ValueError):  # as above
            return None
    return answer


def _kill_marked(folder: Path) -> None:
    """Kill what is left of a supervisor that was killed itself, wherever it moved: it inherits the mark."""
    while marked := [process for process in psutil.process_iter() if _is_marked(process, folder)]:
        for process in marked:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(marked, timeout=1.0)


def _is_marked(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.environ().get(FOLDER_VARIABLE) == str(folder)
    except psutil.Error:  # gone, or somebody else's
        return False


def interrupted(share: NodeShare, reason: str) -> list[RankReport]:
    """The reports of ranks that ended for a reason outside them."""
    return [
        RankReport(rank=rank, outcome=Outcome.INTERRUPTED, phase=Phase.START, reason=reason)
        for rank in share.ranks
    ]
