"""See what runs: probes that leave files behind when they train, and the processes that run them."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from probes import ENDLESS, FACTORIES, factory_model, probe

from trials.contract.messages import ProbeRequest

PATIENCE_S = 60.0
"""For what takes a moment: so long before it counts as not happening."""


def endless(folder: Path, factory: str = "says_when_it_trains:build", **fields: Any) -> ProbeRequest:
    """A probe that goes on until it is ended, of a factory that leaves its files in a folder of `folder`."""
    request = probe(measurement=ENDLESS, **fields)
    own = folder / request.probe_id
    own.mkdir()
    for module in FACTORIES.glob("*.py"):
        (own / module.name).symlink_to(module)
    return request.model_copy(update={"model": factory_model(factory, own)})


def names_of(processes: Iterable[psutil.Process]) -> list[str]:
    """Of those that still live: some are there for a moment only."""
    names = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            names.append(process.name())
    return names


def training(request: ProbeRequest) -> list[psutil.Process]:
    """The ranks of an `endless` probe, in order, that have come to train and still live."""
    return _named(request, "trains")


def sleeping(request: ProbeRequest) -> list[psutil.Process]:
    """The living processes that a probe of `starts_a_session` has left behind."""
    return _named(request, "sleeps")


@dataclass(frozen=True)
class Tree:
    """The processes of a probe that trains; supervisors and zygotes in the order of their nodes."""

    supervisors: list[psutil.Process]
    zygotes: list[psutil.Process]
    ranks: list[psutil.Process]
    sleepers: list[psutil.Process]
    folders: list[Path]
    """The supervisors' scratch folders."""

    @property
    def processes(self) -> list[psutil.Process]:
        return [*self.supervisors, *self.zygotes, *self.ranks, *self.sleepers]


def tree_of(request: ProbeRequest) -> Tree:
    """Wait until every rank of an `endless` probe trains."""
    eventually(lambda: len(training(request)) == request.world_size)
    ranks = training(request)
    zygotes = _parents(ranks)
    supervisors = _parents(zygotes)
    folders = [Path(supervisor.cmdline()[-1]) for supervisor in supervisors]
    return Tree(supervisors, zygotes, ranks, sleeping(request), folders)


def _parents(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = [parent for process in processes if (parent := process.parent()) is not None]
    return list(dict.fromkeys(found))


def _named(request: ProbeRequest, what: str) -> list[psutil.Process]:
    assert request.model.factory_path is not None
    names = sorted(file.name for file in Path(request.model.factory_path).glob(f"{what}-*"))
    pids = [int(name.rpartition("-")[2]) for name in names]
    return alive([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)])


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def below(pid: int | None = None) -> list[psutil.Process]:
    """Every descendant of a process, this one unless told otherwise."""
    return psutil.Process(pid).children(recursive=True)


def that_name(word: str) -> list[psutil.Process]:
    """The processes that have `word` on their command line."""
    return alive([p for p in psutil.process_iter(["cmdline"]) if word in (p.info["cmdline"] or [])])


def eventually(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Wait until `condition` holds; fail when it does not come to."""
    until = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < until, "what was waited for did not happen"
        time.sleep(0.02)
