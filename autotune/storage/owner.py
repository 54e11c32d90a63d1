"""`Owner`: the process that drives a job, and whether it still lives."""

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from trials.contract.message import Message


class Owner(Message):
    """A process, named so that other processes of its machine can tell whether it is gone."""

    host: str
    pid_space: str
    """Changes where equal host names and process ids need not mean the same process: with each start of
    the machine and in each container. Empty where the system does not say."""
    pid: int
    started_ticks: int
    """Clock ticks from the start of the machine to that of the process: no change of the clock moves it."""

    @classmethod
    def current(cls) -> Self:
        """This process."""
        pid = os.getpid()
        return cls(
            host=socket.gethostname(),
            pid_space=_pid_space(),
            pid=pid,
            started_ticks=_started_ticks(pid),
        )

    def is_gone(self) -> bool:
        """Tell whether it certainly runs no more; False where that cannot be seen from here."""
        if (self.host, self.pid_space) != (socket.gethostname(), _pid_space()):
            return False
        try:
            process = psutil.Process(self.pid)
            return _started_ticks(self.pid) != self.started_ticks or process.status() == psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            return True
        except psutil.AccessDenied:
            return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _started_ticks(pid: int) -> int:
    """Field 22 of /proc/PID/stat (man 5 proc); the name in field 2 may hold anything, brackets too."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _pid_space() -> str:
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""
