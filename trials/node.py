"""Run one node's ranks of a probe: fork, watch, end, and collect what they reported."""

import json
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trials.contract.messages import NodeShare, RankReport
from trials.contract.outcome import Outcome, Phase
from trials.processes import die_with_parent

GRACE_S = 3.0
"""After one rank has failed, its peers hang in a collective; they get this long to find out themselves."""


RunRank = Callable[[NodeShare, int, Path], RankReport]


@dataclass
class _Rank:
    rank: int
    pid: int
    pidfd: int
    journal: Path
    log: Path
    status: int | None = None
    """What waitpid said; None while it runs."""
    ended_by_us: tuple[Outcome, str] | None = None


def run_ranks(
    share: NodeShare, folder: Path, run_rank: RunRank, control: int | None = None
) -> list[RankReport]:
    """Fork one process per rank of `share` and return their reports, one for each.

    `folder` receives journals and logs. When the file descriptor `control` becomes readable, the probe is
    cancelled. Every rank, and whatever it started in its process group, has ended when this returns.
    """
    deadline = time.monotonic() + share.request.deadline_s
    give_up = math.inf
    ranks = [_fork(share, rank, folder, run_rank) for rank in share.ranks]
    try:
        while running := [r for r in ranks if r.status is None]:
            wait_s = max(0.0, min(deadline, give_up) - time.monotonic())
            watched = [r.pidfd for r in running] + ([] if control is None else [control])
            ready = select.select(watched, [], [], wait_s)[0]
            if any(_reap(r) and _report(r).outcome != Outcome.MEASURED for r in running if r.pidfd in ready):
                give_up = min(give_up, time.monotonic() + GRACE_S)
            if control in ready:
                _end(running, Outcome.INTERRUPTED, "cancelled")
            elif time.monotonic() >= deadline:
                _end(running, Outcome.TIMED_OUT, f"not done after {share.request.deadline_s:g} s")
            elif time.monotonic() >= give_up:
                _end(running, Outcome.INTERRUPTED, "ended because another rank had failed")
        return [_report(r) for r in ranks]
    finally:
        _end(ranks, Outcome.INTERRUPTED, "the process that watches the ranks failed")
        for r in ranks:
            os.close(r.pidfd)


def _fork(share: NodeShare, rank: int, folder: Path, run_rank: RunRank) -> _Rank:
    journal, log = folder / f"rank-{rank}.jsonl", folder / f"rank-{rank}.log"
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent(parent)
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            _redirect_output(log)
            run_rank(share, rank, journal)
        finally:
            # Past atexit handlers: CUDA's, DeepSpeed's and the parent's have nothing to do here and
            # some of them hang.
            os._exit(0)
    return _Rank(rank, pid, os.pidfd_open(pid), journal, log)


def _redirect_output(log: Path) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(file)


def _reap(r: _Rank) -> bool:
    """Take note of a rank's end; what it left in its process group ends with it."""
    pid, status = os.waitpid(r.pid, os.WNOHANG)
    if not pid:
        return False
    r.status = status
    _kill_group(r.pid)
    return True


def _end(ranks: list[_Rank], outcome: Outcome, reason: str) -> None:
    for r in ranks:
        if r.status is None:
            r.ended_by_us = (outcome, reason)
            _kill_group(r.pid)
            r.status = os.waitpid(r.pid, 0)[1]


def _kill_group(pid: int) -> None:
    """End a rank and what it started; its group remains addressable while a member lives."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _report(r: _Rank) -> RankReport:
    """The rank's own report where it wrote one, else what its end says."""
    phase, last = Phase.START, ""
    lines = r.journal.read_text().splitlines() if r.journal.exists() else []
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # cut off by its end
            break
        phase, last = Phase(entry["phase"]), line
    if last and "outcome" in json.loads(last):
        return RankReport.parse(last)
    outcome, reason = r.ended_by_us or _death(r.status or 0)
    return RankReport(rank=r.rank, outcome=outcome, phase=phase, reason=reason, detail=_tail(r.log))


def _death(status: int) -> tuple[Outcome, str]:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        if name == "SIGKILL":
            return Outcome.CRASHED, "killed from outside (SIGKILL); the machine may have run out of memory"
        return Outcome.CRASHED, f"ended by {name}"
    return Outcome.CRASHED, f"exited with {os.waitstatus_to_exitcode(status)} without a report"


def _tail(log: Path, limit: int = 4000) -> str | None:
    return log.read_text(errors="replace")[-limit:] or None if log.exists() else None
