"""Run one node's ranks of a probe: fork, watch, end, and collect what they reported."""

import json
import math
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trials.ceiling import CHECK_S, CeilingReached, resident_bytes
from trials.contract.messages import MemoryPeaks, NodeShare, RankReport
from trials.contract.outcome import VERDICTS, Outcome, Phase
from trials.contract.probe_log import tail
from trials.processes import die_with_parent, end_descendants, go_first_when_memory_ends

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
    held_bytes: int | None = None
    """What it held when it was ended for that."""


def run_ranks(
    share: NodeShare, folder: Path, run_rank: RunRank, control: int | None = None
) -> list[RankReport]:
    """Fork one process per rank of `share` and return their reports, one for each.

    `folder` receives journals and logs. When the file descriptor `control` becomes readable, the probe is
    cancelled. Every rank, and whatever it started, has ended when this returns; for that the caller adopts
    orphans and has no children of its own.
    """
    deadline = time.monotonic() + share.request.deadline_s
    give_up = math.inf
    watched_ceiling = share.request.ceiling_bytes if share.request.device == "cpu" else None
    longest_wait_s = math.inf if watched_ceiling is None else CHECK_S
    ranks: list[_Rank] = []
    try:
        for rank in share.ranks:
            ranks.append(_fork(share, rank, folder, run_rank))
        while running := [r for r in ranks if r.status is None]:
            wait_s = max(0.0, min(deadline, give_up) - time.monotonic())
            watched = [r.pidfd for r in running] + ([] if control is None else [control])
            ready = select.select(watched, [], [], min(wait_s, longest_wait_s))[0]
            ended = [r for r in running if r.pidfd in ready and _reap(r)]
            if watched_ceiling is not None:
                ended += _end_beyond(watched_ceiling, running)
            if any(not VERDICTS[_report(r).outcome].has_speed for r in ended):
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
        end_descendants()
        for r in ranks:
            os.close(r.pidfd)


def _fork(share: NodeShare, rank: int, folder: Path, run_rank: RunRank) -> _Rank:
    journal, log = folder / f"rank-{rank}.jsonl", folder / f"rank-{rank}.log"
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            die_with_parent(parent)
            go_first_when_memory_ends()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            _redirect_output(log)
            run_rank(share, rank, journal)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            # Past atexit handlers: CUDA's, DeepSpeed's and the parent's have nothing to do here and
            # some of them hang.
            os._exit(status)
    return _Rank(rank, pid, os.pidfd_open(pid), journal, log)


def _redirect_output(log: Path) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(file)


def _reap(r: _Rank) -> bool:
    """Take note of a rank's end."""
    pid, status = os.waitpid(r.pid, os.WNOHANG)
    if not pid:
        return False
    r.status = status
    return True


def _end(ranks: list[_Rank], outcome: Outcome, reason: str) -> None:
    running = [r for r in ranks if r.status is None]
    for r in running:  # all, before waiting for one: a rank that finds its peer gone calls that a crash
        r.ended_by_us = (outcome, reason)
        os.kill(r.pid, signal.SIGKILL)
    for r in running:
        r.status = os.waitpid(r.pid, 0)[1]


def _end_beyond(ceiling_bytes: int, ranks: list[_Rank]) -> list[_Rank]:
    """End the ranks whose resident set is beyond the ceiling, and return them."""
    beyond = []
    for r in ranks:
        if r.status is None and (held := resident_bytes(r.pid)) > ceiling_bytes:
            r.held_bytes = held
            _end([r], Outcome.OUT_OF_MEMORY, str(CeilingReached(held, ceiling_bytes)))
            beyond.append(r)
    return beyond


def _report(r: _Rank) -> RankReport:
    """The rank's own report where it wrote one, else what its end says."""
    phase, last, known = Phase.START, "", dict[str, Any]()
    lines = r.journal.read_text().splitlines() if r.journal.exists() else []
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # cut off by its end
            break
        phase, last = Phase(entry["phase"]), line
        known |= entry.get("known", {})
    if last and "outcome" in json.loads(last):
        return RankReport.parse(last).model_copy(update={"output": tail(r.log)})
    outcome, reason = r.ended_by_us or _death(r.status or 0)
    return RankReport(
        rank=r.rank,
        outcome=outcome,
        phase=phase,
        reason=reason,
        detail=tail(r.log),
        memory=None if r.held_bytes is None else MemoryPeaks(device_bytes=r.held_bytes),
        **known,
    )


def _death(status: int) -> tuple[Outcome, str]:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        if name == "SIGKILL":
            return Outcome.CRASHED, "killed from outside (SIGKILL); the machine may have run out of memory"
        return Outcome.CRASHED, f"ended by {name}"
    return Outcome.CRASHED, f"exited with {os.waitstatus_to_exitcode(status)} without a report"
