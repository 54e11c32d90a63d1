"""How soon each sampler finds the best configuration: replayed on tables of really measured ones.

`python benchmarks/search_efficiency.py [--table FILE...] [--seeds 20] [--samplers NAME...]` prints a table
and writes results/search_efficiency.json. Tables are written by `autotune trials NAME --table FILE`
(docs/tables.md); without --table those in results/tables/ are taken.

A replayed probe returns what one of the row's own probes measured, drawn anew for each seed, and takes its
seconds. The regret after n probes is by how much the true figure of the best probe so far (the row's median)
is below that of the best row; within the row's own noise it is zero. Seconds are those of probing until the
true figure is within 2 % of the best. The baseline is the first probe of every sampler, as in a job.

`wrong forecast`: the same with every level of every factor off by a random factor, log-normal with 30 %.
"""

import argparse
import itertools
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from machine import RESULTS, save
from peers import register
from replay import Probe, Replay, Searched, wrong

from autotune.report.table import Table
from autotune.search import samplers

AFTER = (4, 8, 16, 32)
"""Probes, the baseline's included."""
SLOW = ("gp",)
"""Samplers whose every proposal takes so long that they are followed for the probes of AFTER alone."""


def figures(searches: Sequence[Searched]) -> dict[str, Any]:
    """Means over seeds (and tables)."""
    found: dict[str, Any] = {
        f"regret_after_{count}": mean(s.regret(count) for s in searches) for count in AFTER
    }
    found["out_of_memory_share"] = mean(s.out_of_memory(16) for s in searches)
    found["seconds_to_2_percent"] = mean(s.seconds_to_near for s in searches)
    settled = [s for s in searches if s.settled_after is not None]
    if settled:
        found["stopped_after"] = mean(s.settled_after or 0 for s in settled)
        found["regret_when_stopped"] = mean(s.regret(s.settled_after or 0) for s in settled)
    return found


def raced(everything: "Everything", seeds: int) -> dict[str, float]:
    """What racing spares of the seconds of sixteen probes, and what it costs in what is found by then."""
    plain, racing = (
        everything.searches(
            [Task(table, "cost_model", seed, 16, racing=is_racing) for table, seed in everything.each(seeds)]
        )
        for is_racing in (False, True)
    )
    seconds = [sum(probe.seconds for search in found for probe in search.probes) for found in (plain, racing)]
    return {
        "seconds_spared": 1 - seconds[1] / seconds[0],
        "regret_after_16": mean(search.regret(16) for search in plain),
        "regret_after_16_racing": mean(search.regret(16) for search in racing),
    }


def difference(ours: Sequence[Searched], others: Sequence[Searched], count: int) -> dict[str, float]:
    """Mean of paired differences of regret with its 95 % interval."""
    paired = np.array([a.regret(count) - b.regret(count) for a, b in zip(ours, others, strict=True)])
    half = 1.96 * float(paired.std(ddof=1)) / np.sqrt(len(paired)) if len(paired) > 1 else 0.0
    return {
        "mean": float(paired.mean()),
        "low": float(paired.mean() - half),
        "high": float(paired.mean() + half),
    }


@dataclass(frozen=True)
class Task:
    """One search."""

    table: int
    sampler: str
    seed: int
    most: int
    is_wrong: bool = False
    racing: bool = False


class Everything:
    """All tables, and processes that search on them."""

    def __init__(self, files: Sequence[Path], processes: int) -> None:
        self.replays = [Replay(file.stem, Table.parse(file.read_bytes())) for file in files]
        self._pool = ProcessPoolExecutor(processes, initializer=_begin, initargs=(files,))

    def close(self) -> None:
        self._pool.shutdown()

    def each(self, seeds: int) -> Iterator[tuple[int, int]]:
        """Tables and seeds."""
        return itertools.product(range(len(self.replays)), range(seeds))

    def searches(self, tasks: Sequence[Task]) -> list[Searched]:
        found = self._pool.map(_search, tasks)
        return [
            Searched(self.replays[task.table], probes, settled_after)
            for task, (probes, settled_after) in zip(tasks, found, strict=True)
        ]

    def searched(self, sampler: str, seeds: int, *, is_wrong: bool) -> list[Searched]:
        few = sampler in SLOW or is_wrong
        return self.searches(
            [
                Task(table, sampler, seed, max(AFTER) if few else len(self.replays[table].rows), is_wrong)
                for table, seed in self.each(seeds)
            ]
        )


_replays: list[Replay] = []
"""Of a process that searches."""


def _begin(files: Sequence[Path]) -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    register()
    _replays.extend(Replay(file.stem, Table.parse(file.read_bytes())) for file in files)


def _search(task: Task) -> tuple[Sequence[Probe], int | None]:
    replay = _replays[task.table]
    off = wrong(replay.columns, task.seed) if task.is_wrong else lambda same: same
    candidates = replay.candidates(off)
    found = replay.search(task.sampler, task.seed, candidates, task.most, racing=task.racing)
    return found.probes, found.settled_after


COLUMNS = (*(f"regret_after_{n}" for n in AFTER), "out_of_memory_share", "seconds_to_2_percent")


def show_title(title: str) -> None:
    print(f"\n{title}")
    print(f"{'':16}" + "".join(f"{column.replace('regret_', ''):>22}" for column in COLUMNS))


def show_row(name: str, found: Mapping[str, Any]) -> None:
    print(f"{name:16}" + "".join(f"{found[column]:22.3f}" for column in COLUMNS), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", type=Path, nargs="+", default=sorted((RESULTS / "tables").glob("*.json")))
    parser.add_argument("--seeds", type=int, default=20)
    register()
    parser.add_argument("--samplers", nargs="+", default=[*samplers.SAMPLERS])
    arguments = parser.parse_args()
    everything = Everything(arguments.table, os.cpu_count() or 1)
    replays = everything.replays
    for replay in replays:
        share = float(replay.fits.mean())
        noise = float(np.median(replay.noise[replay.fits]))
        print(f"{replay.name}: {len(replay.rows)} rows, {share:.0%} fit, noise of a row {noise:.1%}")
    result: dict[str, Any] = {"seeds": arguments.seeds, "tables": {r.name: len(r.rows) for r in replays}}
    for title, is_wrong in (("forecast as it is", False), ("wrong forecast", True)):
        show_title(f"{title}, mean over {len(replays)} tables and {arguments.seeds} seeds")
        of_samplers: dict[str, list[Searched]] = {}
        found: dict[str, dict[str, Any]] = {}
        for name in arguments.samplers:
            of_samplers[name] = everything.searched(name, arguments.seeds, is_wrong=is_wrong)
            found[name] = figures(of_samplers[name])
            show_row(name, found[name])
        result[title] = {
            "all tables": found,
            "by table": {
                replay.name: {
                    name: figures([s for s in searches if s.replay is replay])
                    for name, searches in of_samplers.items()
                }
                for replay in replays
            },
        }
        ours, order = of_samplers.get("cost_model"), of_samplers.get("forecast_order")
        if ours and order:
            result[title]["cost_model less forecast_order"] = {
                str(count): difference(ours, order, count) for count in AFTER
            }
            print(
                "cost_model less forecast_order:", json.dumps(result[title]["cost_model less forecast_order"])
            )
    if "cost_model" in arguments.samplers:
        result["racing"] = raced(everything, arguments.seeds)
        print("racing:", json.dumps(result["racing"]))
    everything.close()
    print(f"written to {save('search_efficiency', result)}")


if __name__ == "__main__":
    main()
