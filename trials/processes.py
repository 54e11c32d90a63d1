"""What Linux offers to keep processes from outliving those they work for (man 2 prctl)."""

import contextlib
import ctypes
import os
import signal
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that made it ends; exit now if it already has."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (a child subreaper)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def go_first_when_memory_ends() -> None:
    """Have the kernel end this process, and not its owner, should the machine's memory run out."""
    Path("/proc/self/oom_score_adj").write_text("1000")


def end_descendants() -> None:
    """Kill every descendant, until there is none left: the killed leave orphans, which come to us.

    Only for a process that adopts orphans; whoever left its group and its session is found too.
    """
    this = psutil.Process()
    while alive := [p for p in this.children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]:
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=1.0)
    with contextlib.suppress(ChildProcessError):  # there is no child to wait for
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
