"""Tables that fit the terminal they are printed on."""

from collections.abc import Callable, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from autotune.hardware.sizes import format_bytes
from autotune.report.vocabulary import HEADINGS
from autotune.terminal.words import COLOURS, figure, spoken, varying
from trials.contract.config import TrainingConfig
from trials.contract.outcome import VERDICTS, Outcome

UNBOUNDED = 10_000
"""Columns of a terminal on which every table has room."""

Cell = str | Text


SHORT = {
    "optimizer_and_parameters": "all",
    "optimizer": "states",
    "activations": "activ.",
    "selective": "select.",
    "device memory": "device",
    "CPU memory": "CPU",
}
"""What long values and headings are called where there is little room."""


def _said(value: str, *, short: bool) -> str:
    return SHORT.get(value, value) if short else value


class Fitting:
    """The first of several tables that the terminal has room for, or else the last."""

    def __init__(self, *builds: Callable[[], Table]) -> None:
        self._builds = builds

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._choose(console, options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._choose(console, options))

    def _choose(self, console: Console, options: ConsoleOptions) -> Table:
        for build in self._builds:
            table = build()
            natural = Measurement.get(console, options.update(width=UNBOUNDED), table).maximum
            if natural <= options.max_width:
                break
        return table


def plain_table(gap: int = 2) -> Table:
    """Columns with nothing but space between them."""
    return Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")


class ConfigTable:
    """A table with one configuration a row: its trial, the fields that vary, then what came of it."""

    def __init__(
        self, configs: Sequence[TrainingConfig], figures: Sequence[str], number: str = "trial"
    ) -> None:
        """`figures` are the headings of what each row adds to its configuration, `number` that of its own."""
        self._number = number
        self._fields = varying(configs)
        self._figures = figures
        self._rows: list[tuple[str, TrainingConfig, Sequence[Cell], str]] = []

    def add(
        self, trial: int | None, config: TrainingConfig, figures: Sequence[Cell], style: str = ""
    ) -> None:
        self._rows.append(("" if trial is None else str(trial), config, figures, style))

    def __rich__(self) -> Fitting:
        return Fitting(lambda: self._table(0, 2), lambda: self._table(1, 2), lambda: self._table(1, 1))

    def _table(self, heading: int, gap: int) -> Table:
        table = plain_table(gap)
        table.add_column(self._number, justify="right", no_wrap=True)
        for field in self._fields:
            number = field.endswith(("_size", "_steps", "_length", "_rank"))
            table.add_column(HEADINGS[field][heading], justify="right" if number else "left", no_wrap=True)
        for name in self._figures:
            table.add_column(_said(name, short=heading > 0), justify="right", no_wrap=True)
        for trial, config, figures, style in self._rows:
            values = [_said(str(getattr(config, field)), short=heading > 0) for field in self._fields]
            table.add_row(trial, *values, *figures, style=style)
        return table


def speed_or_outcome(outcome: Outcome | None, tokens_per_second: float) -> Text:
    """The figure of what ran, and what became of what did not."""
    if outcome is None:
        return Text("")
    if VERDICTS[outcome].has_speed and tokens_per_second:
        return Text(figure(tokens_per_second), style=COLOURS[outcome])
    return Text(spoken(outcome), style=COLOURS[outcome])


def memory(peak_bytes: int | None) -> str:
    return format_bytes(peak_bytes) if peak_bytes else ""
