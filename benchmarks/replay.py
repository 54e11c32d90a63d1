"""A table of measured configurations, and searches replayed on it (search_efficiency.py says how)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from autotune.forecast.calibration import RESIDENT_BLUR_BYTES
from autotune.forecast.forecast import Forecast, forecast
from autotune.hardware.inventory import Inventory
from autotune.models.shape import ModelShape
from autotune.report.table import Table, TableRow
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

NEAR = 0.02
WRONG = 0.3
STOP_BELOW = 0.01


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
