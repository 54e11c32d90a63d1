"""Progress of a search on a terminal, redrawn in place."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from autotune.hardware.sizes import format_bytes
from autotune.search.confirmation import CONTENDERS, ROUNDS
from autotune.search.events import Event, JobStarted, ProbeEnded, ProbeStarted, Standing
from autotune.search.history import TrialRecord
from autotune.terminal.tables import ConfigTable, memory, speed_or_outcome
from autotune.terminal.words import (
    clock,
    describe,
    figure,
    in_common,
    opening,
    over_baseline,
    roughly,
    spoken,
)
from trials.contract.config import TrainingConfig
from trials.contract.messages import ProbeResult

MAX_RUNNING = 4
"""Rows of probes that run at once; the others are counted."""
OTHER_LINES = 12
"""Of the display: all but trials, running probes and confirmations."""
BAR_COLUMNS = 24
MIN_TRIALS_TO_GUESS = 2
"""Before so many have ended, the time left is anybody's guess."""


@dataclass(frozen=True)
class _Running:
    config: TrainingConfig
    since: float


class LiveProgress:
    """The latest trials, the best so far, memory under the ceiling, what runs, and the time left."""

    def __init__(self, console: Console) -> None:
        """`console` is where it is drawn; what should stay is printed there, above the display."""
        self._console = console
        self._job: JobStarted | None = None
        self._running: dict[tuple[int, int], _Running] = {}
        self._confirmed: dict[int, dict[int, ProbeResult]] = {}
        """Trial → repeat → result, of the confirmations that this view has seen."""
        self._standing: Standing | None = None
        self._since = 0.0
        """When the standing was taken; before the first, when the job began."""
        self._preparing = Spinner("dots", Text("preparing the model, the devices and their workers"))

    @property
    def has_begun(self) -> bool:
        return self._job is not None

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, JobStarted):
            self._job, self._since = event, now
            for line in opening(event)[1:]:
                self._console.print(line, style="dim", highlight=False, markup=False)
        elif isinstance(event, ProbeStarted):
            self._running[event.trial, event.repeat] = _Running(event.config, now)
            if event.repeat:
                self._confirmed.setdefault(event.trial, {})
        elif isinstance(event, ProbeEnded):
            self._running.pop((event.trial, event.repeat), None)
            if event.repeat:
                self._confirmed.setdefault(event.trial, {})[event.repeat] = event.result
        elif isinstance(event, Standing):
            self._standing, self._since = event, now

    def close(self) -> None:
        """Nothing runs any more; what is drawn last stays on the screen."""
        self._running.clear()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._job is None:
            yield self._preparing
            return
        yield self._title(self._job)
        yield ""
        yield from self._trials(console.size.height)
        yield ""
        yield self._summary(self._job)

    @property
    def _history(self) -> Sequence[TrialRecord]:
        return self._standing.history if self._standing else ()

    def _title(self, job: JobStarted) -> Text:
        title = Text(f"autotune · {job.name}", style="bold", no_wrap=True, overflow="ellipsis")
        title.append(f" · ceiling {format_bytes(job.ceiling_bytes)} per device", style="not bold")
        if common := in_common(self._configs()):
            title.append(f" · {common}", style="not bold")
        return title

    def _configs(self) -> list[TrainingConfig]:
        return [t.config for t in self._history] + [probe.config for probe in self._running.values()]

    def _trials(self, height: int) -> RenderResult:
        ended = [t for t in self._history if t.outcome is not None]
        running = [(number, probe) for (number, repeat), probe in self._running.items() if not repeat]
        contenders = [t for t in ended if t.number in self._confirmed]
        extra_lines = min(len(running), MAX_RUNNING + 1) + (len(contenders) + 2 if contenders else 0)
        shown = ended[-max(1, height - OTHER_LINES - extra_lines) :]
        if hidden := len(ended) - len(shown):
            yield Text(f"… {hidden} earlier", style="dim")
        table = ConfigTable(self._configs(), ("tokens/s", "peak"))
        best = self._standing.best if self._standing else None
        for trial in shown:
            figures = (speed_or_outcome(trial.outcome, trial.tokens_per_second), memory(trial.peak_bytes))
            style = "bold" if best is not None and trial.number == best.number else ""
            table.add(trial.number, trial.config, figures, style)
        for number, probe in running[:MAX_RUNNING]:
            seconds = f"{time.monotonic() - probe.since:.0f} s"
            table.add(number, probe.config, (Text("probing", style="cyan"), Text(seconds, style="cyan")))
        yield table
        if len(running) > MAX_RUNNING:
            yield Text(f"… and {len(running) - MAX_RUNNING} more are being probed", style="cyan")
        if contenders:
            yield ""
            yield self._confirmations(contenders)

    def _confirmations(self, contenders: Sequence[TrialRecord]) -> ConfigTable:
        """What the leaders come to: the median of their confirmations, as the answer will have it."""
        table = ConfigTable([t.config for t in contenders], ("tokens/s", "confirmed", ""))
        for trial in contenders:
            again = self._confirmed[trial.number]
            speeds = [r.tokens_per_second.median for r in again.values() if r.tokens_per_second]
            failed = [spoken(r.outcome) for r in again.values() if not r.tokens_per_second]
            runs = any(number == trial.number for number, _ in self._running)
            now = Text("probing", style="cyan") if runs else Text(", ".join(failed), style="red")
            count = f"{max(again, default=0)} of {ROUNDS}"
            table.add(
                trial.number, trial.config, (figure(median(speeds or [trial.tokens_per_second])), count, now)
            )
        return table

    def _summary(self, job: JobStarted) -> Table:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True, min_width=len("its memory"))
        grid.add_column(no_wrap=True, overflow="ellipsis")
        best = self._standing.best if self._standing else None
        grid.add_row("best", _best(best, self._standing.baseline if self._standing else None))
        if best is not None and best.peak_bytes:
            grid.add_row("", f"trial {best.number}: {describe(best.config)}")
            of = f"{format_bytes(best.peak_bytes)} of {format_bytes(job.ceiling_bytes)}"
            grid.add_row("its memory", _bar(best.peak_bytes, job.ceiling_bytes, of))
        done = sum(t.counts for t in self._history if t.outcome is not None)
        most = self._most_trials(job, done)
        grid.add_row("trials", _bar(done, most, f"{done} of at most {most}"))
        if self._confirmed:
            confirmed, due = self._confirmations_done_and_due()
            words = f"{confirmed} of {due} further probes of the leaders"
            grid.add_row("confirming", _bar(confirmed, due, words))
        grid.add_row("time", self._time(most - done))
        return grid

    def _confirmations_done_and_due(self) -> tuple[int, int]:
        fastest = sorted(
            (t for t in self._history if t.tokens_per_second), key=lambda t: -t.tokens_per_second
        )
        contenders = {t.number for t in fastest[:CONTENDERS]} | set(self._confirmed)
        baseline = self._standing.baseline if self._standing else None
        if baseline is not None and baseline.tokens_per_second:
            contenders.add(baseline.number)
        done = sum(max(again, default=0) for again in self._confirmed.values())
        return done, len(contenders) * ROUNDS

    @staticmethod
    def _most_trials(job: JobStarted, done: int) -> int:
        """The budget, or all there is to try; the baseline may come on top."""
        return max(done, min(job.trials, job.candidates or job.trials))

    def _time(self, trials_left: int) -> str:
        since = time.monotonic() - self._since
        if self._standing is None:
            return f"{clock(since)} spent"
        spent = f"{clock(self._standing.seconds_spent + since)} spent"
        ended = [t for t in self._history if t.outcome is not None]
        if len(ended) < MIN_TRIALS_TO_GUESS or not self._running:
            return spent
        confirmed, due = self._confirmations_done_and_due()
        searching_s = self._standing.seconds_spent / len(ended) * trials_left
        if self._confirmed:
            searching_s = 0.0
        confirming_s = sum(t.seconds for t in ended) / len(ended) * (due - confirmed)
        left_s = max(0.0, min(searching_s, self._standing.seconds_left) + confirming_s - since)
        return f"{spent}, {roughly(left_s)} to go"


def _bar(done: float, total: float, words: str) -> RenderableType:
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_row(ProgressBar(total=total, completed=done, width=BAR_COLUMNS), Text(words, no_wrap=True))
    return line


def _best(best: TrialRecord | None, baseline: TrialRecord | None) -> Text:
    if best is None:
        return Text("none yet")
    text = Text(f"{figure(best.tokens_per_second)} tokens/s", style="bold green")
    return text.append(over_baseline(best, baseline), style="not bold default")
