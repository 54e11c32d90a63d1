"""A job as a table: every configuration with every probe of it, for searches to be replayed on.

docs/tables.md describes the file.
"""

import json
from collections.abc import Sequence
from typing import Literal

from autotune.jobs import JobSpec
from autotune.search.history import TrialRecord
from autotune.storage.records import Measurement
from trials.contract.config import TrainingConfig
from trials.contract.message import Message
from trials.contract.outcome import VERDICTS, Outcome


class TableRow(Message):
    """One configuration; the lists have an element per probe, in the order in which they were made."""

    config: TrainingConfig
    outcome: Outcome
    """Of its first probe."""
    reason: str | None = None
    tokens_per_second: tuple[float, ...] = ()
    """Median of each probe with a figure."""
    peak_bytes: int | None = None
    """The largest of all its probes; None where none came so far."""
    seconds: tuple[float, ...]
    """Wall time of each probe."""
    step_s: tuple[tuple[float, ...], ...] = ()
    """Measured steps of each probe with a figure."""


class Table(Message):
    """What was measured, and of which job: what the forecast needs is in it."""

    def to_file(self) -> str:
        """As JSON, without what has its default."""
        left = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps({"format": self.format, **left}, indent=1)

    format: Literal["autotune-table/1"] = "autotune-table/1"
    job: JobSpec
    rows: tuple[TableRow, ...]


def table_of(spec: JobSpec, trials: Sequence[TrialRecord], measurements: Sequence[Measurement]) -> Table:
    """The trials that have ended and count, with all their probes."""
    by_trial: dict[int, list[Measurement]] = {}
    for measurement in sorted(measurements, key=lambda m: m.repeat):
        by_trial.setdefault(measurement.trial_number, []).append(measurement)
    return Table(
        job=spec,
        rows=tuple(
            _row(trial, by_trial[trial.number])
            for trial in trials
            if trial.outcome is not None and VERDICTS[trial.outcome].completes and trial.number in by_trial
        ),
    )


def _row(trial: TrialRecord, probes: Sequence[Measurement]) -> TableRow:
    results = [probe.result for probe in probes]
    figures = [(r.tokens_per_second.median, r.step_s) for r in results if r.tokens_per_second is not None]
    peaks = [r.peak_bytes for r in results if r.peak_bytes is not None]
    assert trial.outcome is not None
    return TableRow(
        config=trial.config,
        outcome=trial.outcome,
        reason=trial.reason,
        tokens_per_second=tuple(speed for speed, _ in figures),
        peak_bytes=max(peaks, default=None),
        seconds=tuple(result.seconds for result in results),
        step_s=tuple(steps for _, steps in figures),
    )
