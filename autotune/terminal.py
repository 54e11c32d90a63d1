"""What people see on a terminal: live progress of a search, and answers as tables."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autotune.hardware.sizes import format_bytes
from autotune.jobs import Job
from autotune.report.answer import Answer, Row
from autotune.report.trials import TrialRow
from autotune.search.events import Event, JobStarted, Listener, ProbeEnded, ProbeStarted, Standing
from autotune.search.history import TrialRecord
from trials.contract.config import TrainingConfig
from trials.contract.messages import Estimate
from trials.contract.outcome import Outcome

SHOWN_TRIALS = 12
PLAIN_WIDTH = 150
USUAL = TrainingConfig()

CAVEATS = (
    (
        "precision",
        "bf16_pure",
        "bf16_pure keeps no fp32 master weights; see that your loss converges so, or --set precision=bf16",
    ),
    ("precision", "fp16", "fp16 needs its loss scaler all the way; see that your loss stays finite"),
)
"""Field, value, what to know before training with it."""

COLOURS = {
    Outcome.MEASURED: "green",
    Outcome.OUTPACED: "green",
    Outcome.OUT_OF_MEMORY: "red",
    Outcome.NON_FINITE: "magenta",
    Outcome.TIMED_OUT: "yellow",
    Outcome.CRASHED: "red",
    Outcome.INTERRUPTED: "yellow",
    Outcome.INVALID: "magenta",
}


def describe(config: TrainingConfig) -> str:
    """The fields that tell one configuration from another, in one line."""
    words = [config.sharding, config.precision, f"micro-batch {config.micro_batch_size}"]
    if config.gradient_accumulation_steps > 1:
        words.append(f"× {config.gradient_accumulation_steps}")
    if config.activation_checkpointing != "none":
        words.append(f"checkpointing {config.activation_checkpointing}")
    if config.offload != "none":
        words.append(f"offload {config.offload}")
    said = {
        "sharding", "precision", "micro_batch_size", "gradient_accumulation_steps", "sequence_length",
        "activation_checkpointing", "offload",
    }  # fmt: skip
    for name in TrainingConfig.model_fields:
        value = getattr(config, name)
        if name not in said and value != getattr(USUAL, name):
            words.append(f"{name}={value}")
    return " ".join(words) + f" length {config.sequence_length}"


def console(*, stderr: bool = False) -> Console:
    """As wide as the terminal; where there is none, wide enough that nothing is folded."""
    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(stderr=stderr, width=PLAIN_WIDTH)


def caveats(config: TrainingConfig) -> list[str]:
    """What a probe cannot see: choices that are faster or smaller, but not the same training."""
    return [words for field, value, words in CAVEATS if getattr(config, field) == value]


@contextmanager
def progress(console: Console) -> Iterator[Listener]:
    """A listener that draws on a terminal, or writes a line per probe elsewhere."""
    if not console.is_terminal:
        yield PlainProgress(console)
        return
    view = LiveProgress()
    with Live(view, console=console, refresh_per_second=4):
        yield view


class PlainProgress:
    """A line per probe, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobStarted):
            ceiling = format_bytes(event.ceiling_bytes)
            self._print(f"job {event.name}: at most {event.trials} trials under {ceiling} per device")
        elif isinstance(event, ProbeEnded):
            name = (
                f"trial {event.trial}" if not event.repeat else f"confirming {event.trial} ({event.repeat})"
            )
            speed = event.result.tokens_per_second
            figure = f"{speed.median:,.0f} tokens/s" if speed else event.outcome.replace("_", " ")
            peak = f", peak {format_bytes(event.result.peak_bytes)}" if event.result.peak_bytes else ""
            self._print(f"{name}: {figure}{peak}  [{describe(event.config)}]")
        elif isinstance(event, Standing) and event.best is not None:
            self._print(
                f"  best {event.best.tokens_per_second:,.0f} tokens/s, {event.trials_left} trials left"
            )

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class LiveProgress:
    """Redrawn by rich: the latest trials, the best so far against the baseline, memory, what is left."""

    def __init__(self) -> None:
        self._job = JobStarted("", 0, 0)
        self._running: dict[tuple[int, int], TrainingConfig] = {}
        self._standing: Standing | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobStarted):
            self._job = event
        elif isinstance(event, ProbeStarted):
            self._running[event.trial, event.repeat] = event.config
        elif isinstance(event, ProbeEnded):
            self._running.pop((event.trial, event.repeat), None)
        else:
            self._standing = event

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = [self._table()]
        if self._standing is not None:
            parts.append(self._summary(self._standing))
        return Panel(Group(*parts), title=f"autotune · {self._job.name}", border_style="dim")

    def _table(self) -> Table:
        table = Table(box=None, expand=True, header_style="bold")
        for column in ("trial", "configuration", "tokens/s", "peak", "outcome"):
            table.add_column(column, justify="right" if column in ("trial", "tokens/s", "peak") else "left")
        history = self._standing.history if self._standing else ()
        best = self._standing.best if self._standing else None
        for trial in [t for t in history if t.outcome is not None][-SHOWN_TRIALS:]:
            table.add_row(*_cells(trial), style="bold" if best and trial.number == best.number else "")
        for (number, repeat), config in self._running.items():
            doing = f"confirming ({repeat})" if repeat else "probing"
            table.add_row(str(number), describe(config), "", "", Text(doing, style="cyan"))
        return table

    def _summary(self, standing: Standing) -> RenderableType:
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(ratio=3)
        grid.add_column(ratio=2)
        best, baseline = standing.best, standing.baseline
        text = Text("no configuration has run yet")
        bar: RenderableType = ""
        if best is not None:
            text = Text(f"best {best.tokens_per_second:,.0f} tokens/s", style="bold green")
            if baseline is not None and baseline.tokens_per_second > 0:
                text.append(f"  {best.tokens_per_second / baseline.tokens_per_second:.2f}× the baseline")
            peak = best.peak_bytes or 0
            bar = Group(
                ProgressBar(total=self._job.ceiling_bytes, completed=peak, width=40),
                Text(f"{format_bytes(peak)} of {format_bytes(self._job.ceiling_bytes)}", style="dim"),
            )
        left = f"{standing.trials_left} of {self._job.trials} trials left"
        left += f", {_clock(standing.seconds_spent)} spent"
        if standing.seconds_left < float("inf"):
            left += f", at most {_clock(max(0.0, standing.seconds_left))} to go"
        grid.add_row(Group(text, Text(left, style="dim")), bar)
        return grid


def _cells(trial: TrialRecord) -> tuple[str, str, str, str, Text]:
    assert trial.outcome is not None
    speed = f"{trial.tokens_per_second:,.0f}" if trial.tokens_per_second else ""
    peak = format_bytes(trial.peak_bytes) if trial.peak_bytes else ""
    outcome = Text(trial.outcome.replace("_", " "), style=COLOURS[trial.outcome])
    return str(trial.number), describe(trial.config), speed, peak, outcome


def answer_view(answer: Answer) -> RenderableType:
    """The recommendation as a person would want it told."""
    parts: list[RenderableType] = []
    chosen = answer.recommendation
    if chosen is None:
        parts.append(Text(f"no recommendation: the job is {answer.status}", style="bold"))
    else:
        usable = chosen.ceiling_bytes * (1 - chosen.headroom)
        parts.append(Text(describe(chosen.config), style="bold green"))
        facts = Table.grid(padding=(0, 2))
        facts.add_row("speed", f"{_estimate(chosen.tokens_per_second)} tokens/s ({chosen.evidence})")
        facts.add_row(
            "memory",
            f"peak {format_bytes(chosen.peak_bytes)} per rank; ceiling {format_bytes(chosen.ceiling_bytes)}, "
            f"usable {format_bytes(int(usable))}",
        )
        facts.add_row("global batch", f"{chosen.global_batch_size} sequences")
        if chosen.mfu is not None:
            facts.add_row("MFU", f"{chosen.mfu:.1%}")
        facts.add_row("baseline", _baseline(answer))
        if chosen.ties:
            facts.add_row("ties", "; ".join(describe(row.config) for row in chosen.ties))
        for caveat in caveats(chosen.config):
            facts.add_row("mind", caveat)
        parts.append(facts)
    if answer.alternatives:
        parts.append(_rows("next best", answer.alternatives))
    counts = ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in answer.counts.items())
    spent = answer.spent
    parts.append(
        Text(
            f"{spent.trials} trials ({counts or 'none ended'}) in {_clock(spent.seconds)}, "
            f"{spent.gpu_hours:.2f} device hours" + (f"; {answer.reason}" if answer.reason else ""),
            style="dim",
        )
    )
    return Panel(
        Group(*parts), title=f"recommendation · {answer.job}", border_style="green" if chosen else "dim"
    )


def _baseline(answer: Answer) -> str:
    chosen = answer.recommendation
    assert chosen is not None
    baseline = chosen.baseline
    if baseline.config is None or baseline.tokens_per_second is None:
        return f"none: {baseline.reason}"
    words = f"{_estimate(baseline.tokens_per_second)} tokens/s with {describe(baseline.config)}"
    if chosen.speedup is not None:
        gain = chosen.speedup
        words += f"\nspeed-up {gain.median:.2f}× (95 % interval {gain.low:.2f} to {gain.high:.2f})"
    return words


def _rows(title: str, rows: Sequence[Row]) -> Table:
    table = Table(box=None, title=title, title_justify="left", title_style="bold", header_style="dim")
    for column in ("trial", "configuration", "tokens/s", "peak"):
        table.add_column(column, justify="left" if column == "configuration" else "right")
    for row in rows:
        number = "" if row.trial is None else str(row.trial)
        table.add_row(
            number, describe(row.config), f"{row.tokens_per_second.median:,.0f}", format_bytes(row.peak_bytes)
        )
    return table


def trials_view(rows: Sequence[TrialRow]) -> Table:
    table = Table(box=None, header_style="bold")
    for column in ("trial", "outcome", "configuration", "tokens/s", "peak", "seconds", "reason"):
        table.add_column(
            column, justify="right" if column in ("trial", "tokens/s", "peak", "seconds") else "left"
        )
    for row in rows:
        speed = row.tokens_per_second
        outcome = row.outcome.replace("_", " ") if row.outcome else row.state.lower()
        style = COLOURS[row.outcome] if row.outcome else "cyan"
        table.add_row(
            str(row.number),
            Text(outcome, style=style),
            describe(row.config),
            _estimate(speed) if speed else "",
            format_bytes(row.peak_bytes) if row.peak_bytes else "",
            f"{row.seconds:.1f}",
            (row.reason or "")[:100],
        )
    return table


def jobs_view(jobs: Sequence[Job]) -> Table:
    table = Table(box=None, header_style="bold")
    for column in ("name", "status", "model", "gpus", "trials", "spent", "driver or reason"):
        table.add_column(column)
    for job in jobs:
        spec = job.spec
        table.add_row(
            job.name, job.status, spec.model.name, spec.gpus, str(spec.trials), _clock(job.spent_s),
            job.driver or job.reason or "",
        )  # fmt: skip
    return table


def facts_view(rows: Sequence[dict[str, object]]) -> Table:
    """Rows of equal keys as a table."""
    table = Table(box=None, header_style="bold")
    for key in rows[0] if rows else ():
        table.add_column(key.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    return table


def _cell(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _estimate(estimate: Estimate) -> str:
    return f"{estimate.median:,.0f} ({estimate.low:,.0f} to {estimate.high:,.0f})"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
