"""Tables that fit the terminal they are printed on."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

from rich.cells import cell_len
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

Cell = str | Text | Callable[[int], Text]
"""What a column has of a row; a drawing is made when its width is known."""

SHORT = {
    "optimizer_and_parameters": "all",
    "optimizer": "states",
    "activations": "activ.",
    "selective": "select.",
    "tokens/s": "tok/s",
    "device memory": "device",
    "CPU memory": "CPU",
    "of the ceiling": "of ceiling",
    "tensors, traced": "traced",
}
"""What long values and headings are called where there is little room."""


class Room(NamedTuple):
    """How a table is made where there is so much room."""

    is_short: bool
    """Whether headings and long values are called what they are in `SHORT`."""
    gap: int
    """Blanks between columns."""
    drawing_width: int
    """Characters of each drawing; 0 leaves them out."""
    without: Collection[str] = ()
    """Figures that are left out too."""


ROOMS = (
    Room(False, 2, 24),
    Room(True, 2, 24),
    Room(True, 1, 24),
    Room(True, 1, 10),
    Room(True, 1, 0),
    Room(True, 1, 0, ("MFU",)),
)
"""From most room to least."""


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
        self,
        configs: Sequence[TrainingConfig],
        figures: Sequence[str],
        number: str = "trial",
        legend: Text | None = None,
    ) -> None:
        """`figures` are the headings of what each row adds to its configuration, `number` that of its own;
        `legend` stands below where there is room for drawings.
        """
        self._number = number
        self._legend = legend
        self._fields = varying(configs)
        self._figures = figures
        self._rows: list[tuple[str, TrainingConfig, Sequence[Cell], str]] = []

    def add(
        self, trial: int | None, config: TrainingConfig, figures: Sequence[Cell], style: str = ""
    ) -> None:
        self._rows.append(("" if trial is None else str(trial), config, figures, style))

    def __rich__(self) -> Fitting:
        return Fitting(*(partial(self._table, room) for room in ROOMS))

    def _table(self, room: Room) -> Table:
        table, width = plain_table(room.gap), room.drawing_width
        if self._legend and width:
            table.caption, table.caption_style, table.caption_justify = self._legend, "", "left"
        table.add_column(self._number, justify="right", no_wrap=True)
        for field in self._fields:
            number = field.endswith(("_size", "_steps", "_length", "_rank"))
            table.add_column(
                HEADINGS[field][room.is_short], justify="right" if number else "left", no_wrap=True
            )
        rows = [
            [cell(width) if callable(cell) else cell for cell in figures] for _, _, figures, _ in self._rows
        ]
        drawings = {i for _, _, figures, _ in self._rows for i, cell in enumerate(figures) if callable(cell)}
        shown = [
            index
            for index, name in enumerate(self._figures)
            if name not in room.without and (width or index not in drawings)
        ]
        for index in shown:
            widest = max((cell_len(str(cells[index])) for cells in rows), default=0)
            table.add_column(
                _said(self._figures[index], short=room.is_short),
                justify="right",
                no_wrap=True,
                min_width=widest,  # names are cut before figures
            )
        for (trial, config, _, style), cells in zip(self._rows, rows, strict=True):
            values = [_said(str(getattr(config, field)), short=room.is_short) for field in self._fields]
            table.add_row(trial, *values, *(cells[index] for index in shown), style=style)
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
