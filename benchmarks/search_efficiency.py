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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from machine import RESULTS, save
from numpy.typing import NDArray
from peers import register

from autotune.forecast.calibration import RESIDENT_BLUR_BYTES
from autotune.forecast.forecast import Forecast, forecast
from autotune.hardware.inventory import Inventory
from autotune.models.shape import ModelShape
from autotune.report.table import Table, TableRow
from autotune.search import samplers
from autotune.search.baseline import default_baseline
from autotune.search.candidates import Candidates
from autotune.search.cost_model import Knowledge
from autotune.search.measuring import Measuring, fastest
from autotune.search.stopping import has_settled
from autotune.search.study import SearchStudy
from search_spaces.columns import FIELDS, Columns
from trials.contract.config import TrainingConfig
from trials.contract.messages import Estimate, ProbeResult
from trials.contract.outcome import VERDICTS, Outcome, Phase
from trials.contract.statistics import throughput
from trials.measure import why_outpaced

AFTER = (4, 8, 16, 32)
"""Probes, the baseline's included."""
NEAR = 0.02
WRONG = 0.3
STOP_BELOW = 0.01
SLOW = ("gp",)
"""Samplers whose every proposal takes so long that they are followed for the probes of AFTER alone."""


@dataclass(frozen=True)
class Probe:
    row: int
    tokens_per_second: float
    """As it was drawn; 0 where it failed or does not fit."""
    seconds: float
    out_of_memory: bool


class Replay:
    """One table, as searches meet it."""

    def __init__(self, name: str, table: Table) -> None:
        self.name = name
        self.table = table
        self.rows = table.rows
        spec = table.job
        self.columns = Columns.of([row.config for row in table.rows])
        self.group = Inventory.from_dict(spec.inventory).group
        self.forecast = forecast(ModelShape.from_dict(spec.shape), self.group, spec.world_size, self.columns)
        self.fits = np.array([_fits(row, spec.usable_bytes) for row in self.rows])
        if not self.fits.any():
            raise SystemExit(f"{name}: no row of the table fits under its ceiling")
        self.true = np.where(self.fits, [_median(row) for row in self.rows], 0.0)
        self.noise = np.array([_noise(row) for row in self.rows])

    @cached_property
    def best(self) -> float:
        return float(self.true.max())

    @cached_property
    def exhaustive_seconds(self) -> float:
        return sum(row.seconds[0] for row in self.rows)

    def regret(self, row: int | None) -> float:
        """Share by which a row falls short of the best; all of it where none was found."""
        if row is None:
            return 1.0
        short = 1 - float(self.true[row]) / self.best
        return 0.0 if short <= self.noise[row] else short

    def candidates(self, off: Callable[[Forecast], Forecast] = lambda same: same) -> Candidates:
        spec = self.table.job
        return Candidates(
            columns=self.columns,
            forecast=off(self.forecast),
            ceiling_bytes=spec.ceiling_bytes,
            usable_bytes=spec.usable_bytes,
            rejected=(),
            total=len(self.rows),
            leanest=None,
        )

    def baseline(self, candidates: Candidates) -> TrainingConfig:
        chosen = self.table.job.chosen_baseline
        known = chosen is not None and candidates.index(chosen) is not None
        return chosen if known and chosen is not None else default_baseline(candidates)

    def search(
        self, sampler: str, seed: int, candidates: Candidates, most: int, *, racing: bool = False
    ) -> "Searched":
        """Probe by probe until nothing is left, or `most` were made.

        `racing`: probes end as soon as their recorded steps can no longer be the best, as in a job.
        """
        import optuna

        rng = np.random.default_rng(seed)
        drawn = [int(rng.integers(len(row.seconds))) for row in self.rows]
        blur = RESIDENT_BLUR_BYTES if self.group.gpu.kind == "cpu" else 0
        study = SearchStudy(
            optuna.storages.InMemoryStorage(),
            "replay",
            candidates,
            self.baseline(candidates),
            sampler,
            seed,
            Knowledge(world_size=self.table.job.world_size, blur_bytes=blur),
        )
        probes: list[Probe] = []
        settled_after: int | None = None
        while len(probes) < most and (not probes or len(study.remaining())):
            if not probes:
                asked = study.ask_for(self.baseline(candidates))
            else:
                settled = has_settled(study.trials(), study.expected_gain(), STOP_BELOW)
                if settled and settled_after is None:
                    settled_after = len(probes)
                asked = study.ask()
            index = candidates.index(asked.config)
            assert index is not None
            result = _result(self.rows[index], drawn[index], asked.number)
            if racing and probes:
                result = self._raced(index, drawn[index], result, study)
            study.tell(asked.number, result)
            fits = bool(self.fits[index])
            probes.append(
                Probe(
                    index,
                    result.tokens_per_second.median if fits and result.tokens_per_second else 0.0,
                    result.seconds,
                    result.outcome == Outcome.OUT_OF_MEMORY,
                )
            )
        return Searched(self, probes, settled_after)

    def _raced(self, index: int, drawn: int, result: ProbeResult, study: SearchStudy) -> ProbeResult:
        """The result as it comes out where the probe ends as soon as it is outpaced."""
        row, spec = self.rows[index], self.table.job
        best = fastest(study.trials(), row.config.sequence_length, spec.usable_bytes)
        if best is None or result.outcome != Outcome.MEASURED or drawn >= len(row.step_s):
            return result
        plan = Measuring(spec.world_size).own(row.config, best)
        steps = row.step_s[drawn]
        for count in range(1, len(steps)):
            if why_outpaced(steps[:count], plan):
                tokens = row.config.tokens_per_step(spec.world_size)
                return result.model_copy(
                    update={
                        "outcome": Outcome.OUTPACED,
                        "tokens_per_second": throughput(tokens, steps[:count]),
                        "seconds": result.seconds - sum(steps[count:]),
                    }
                )
        return result


@dataclass(frozen=True)
class Searched:
    """What one search came to."""

    replay: Replay
    probes: Sequence[Probe]
    settled_after: int | None

    def leader(self, count: int) -> int | None:
        """The row with the best figure among the first `count` probes."""
        fitting = [probe for probe in self.probes[:count] if probe.tokens_per_second > 0]
        return max(fitting, key=lambda probe: probe.tokens_per_second).row if fitting else None

    def regret(self, count: int) -> float:
        return self.replay.regret(self.leader(count))

    @property
    def seconds_to_near(self) -> float:
        """Of probing until the leader is within 2 %; of the whole table where it never was."""
        spent = 0.0
        for count, probe in enumerate(self.probes, start=1):
            spent += probe.seconds
            if self.regret(count) <= NEAR:
                return spent
        return self.replay.exhaustive_seconds

    def out_of_memory(self, count: int) -> float:
        return mean(probe.out_of_memory for probe in self.probes[:count])


def _median(row: TableRow) -> float:
    return float(np.median(row.tokens_per_second)) if row.tokens_per_second else 0.0


def _noise(row: TableRow) -> float:
    """Half the spread between its probes, as a share of their median."""
    speeds = row.tokens_per_second
    return (max(speeds) - min(speeds)) / 2 / _median(row) if speeds else 0.0


def _fits(row: TableRow, usable_bytes: int) -> bool:
    measured = row.outcome == Outcome.MEASURED and len(row.tokens_per_second) > 0
    return measured and row.peak_bytes is not None and row.peak_bytes <= usable_bytes


def _result(row: TableRow, drawn: int, number: int) -> ProbeResult:
    speeds = row.tokens_per_second
    drawn = min(drawn, max(len(speeds) - 1, 0))
    speed = None
    if speeds and VERDICTS[row.outcome].has_speed:
        speed = Estimate(median=speeds[drawn], low=speeds[drawn], high=speeds[drawn])
        if drawn < len(row.step_s):
            interval = throughput(1, row.step_s[drawn])
            speed = Estimate(
                median=speeds[drawn],
                low=speeds[drawn] * interval.low / interval.median,
                high=speeds[drawn] * interval.high / interval.median,
            )
    return ProbeResult(
        probe_id=f"{number}.0",
        outcome=row.outcome,
        phase=Phase.DONE if speed else Phase.MEASURE,
        reason=row.reason,
        tokens_per_second=speed,
        peak_bytes=row.peak_bytes,
        seconds=row.seconds[min(drawn, len(row.seconds) - 1)],
    )


def wrong(columns: Columns, seed: int) -> Callable[[Forecast], Forecast]:
    """A forecast whose every factor level is off, in speed and in memory."""
    rng = np.random.default_rng((seed, 1))

    def factors() -> NDArray[np.float64]:
        off = np.zeros(len(columns))
        for name in FIELDS:
            levels, codes = np.unique(columns.values[name], return_inverse=True)
            if len(levels) > 1:
                off += rng.normal(0, WRONG, len(levels))[codes]
        return np.exp(off)

    def distort(right: Forecast) -> Forecast:
        speed, memory = factors(), factors()
        reserved = (right.reserved_bytes * memory).astype(np.int64)
        return replace(
            right,
            tokens_per_second=right.tokens_per_second * speed,
            step_s=right.step_s / speed,
            reserved_bytes=reserved,
            parts={**right.parts},
        )

    return distort


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

    def searches(self, tasks: Sequence[Task]) -> list["Searched"]:
        found = self._pool.map(_search, tasks)
        return [
            Searched(self.replays[task.table], probes, settled_after)
            for task, (probes, settled_after) in zip(tasks, found, strict=True)
        ]

    def searched(self, sampler: str, seeds: int, *, is_wrong: bool) -> list["Searched"]:
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
