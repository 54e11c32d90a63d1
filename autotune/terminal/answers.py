"""The answer of a job and its trials, as a person would want them told."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from autotune.hardware.sizes import format_bytes
from autotune.jobs import JobStatus
from autotune.report.answer import Answer, Recommendation, Row
from autotune.report.speedup import against_baseline
from autotune.report.trials import TrialRow
from autotune.report.vocabulary import EVIDENCE
from autotune.search.stopping import counted
from autotune.terminal.tables import ConfigTable, memory, speed_or_outcome
from autotune.terminal.words import caveats, clock, describe, figure, in_common, interval, spoken
from trials.contract.config import TrainingConfig


def answer_view(answer: Answer, formats: Sequence[str] = ()) -> RenderableType:
    """The recommendation with its evidence, what comes next, and what it cost to find out.

    `formats` are those that it can be exported to.
    """
    chosen = answer.recommendation
    parts: list[RenderableType] = []
    if chosen is None:
        parts.append(Text("nothing to recommend yet", style="bold"))
    else:
        parts += [Text(describe(chosen.config), style="bold green"), "", _facts(chosen)]
        tied = {row.config for row in chosen.ties}
        if answer.by_length:
            parts += ["", Text("the fastest at each length", style="bold"), _rows(answer.by_length, set())]
        if answer.alternatives:
            parts += ["", Text("next best", style="bold"), _rows(answer.alternatives, tied)]
    parts += ["", *(Text(line, style="dim") for line in _footer(answer, formats))]
    title = "recommendation" if answer.status == JobStatus.FINISHED else f"{answer.status}, as it stands"
    return Panel(
        Group(*parts),
        title=f"{answer.job} · {title}",
        border_style="green" if chosen else "dim",
        expand=False,
        padding=(0, 1),
    )


def _facts(chosen: Recommendation) -> Table:
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    speed = chosen.tokens_per_second
    facts.add_row(
        "speed", f"{figure(speed.median)} tokens/s ({interval(speed)}), {EVIDENCE[chosen.evidence]}"
    )
    for row in _comparison(chosen):
        facts.add_row(*row)
    peak, ceiling = format_bytes(chosen.peak_bytes), format_bytes(chosen.ceiling_bytes)
    usable = format_bytes(int(chosen.ceiling_bytes * (1 - chosen.headroom)))
    facts.add_row("memory", f"peak {peak} per rank; ceiling {ceiling}, usable {usable}")
    facts.add_row("global batch", f"{chosen.global_batch_size} sequences a step")
    if chosen.mfu is not None:
        facts.add_row("MFU", f"{chosen.mfu:.1%}")
    for caveat in caveats(chosen.config):
        facts.add_row("mind", caveat)
    return facts


def _comparison(chosen: Recommendation) -> list[tuple[str, str]]:
    gain, baseline = chosen.speedup, chosen.baseline
    if baseline.config == chosen.config:
        return [("speed-up", "none: the baseline is the fastest")]
    words = f"unknown: {baseline.reason}"
    if gain is not None:
        words = against_baseline(gain)
    own = baseline.tokens_per_second
    speed = "" if own is None else f"{figure(own.median)} tokens/s ({interval(own)})\n"
    return [("speed-up", words), ("baseline", f"{speed}{describe(baseline.config)}")]


def _rows(rows: Sequence[Row], tied: set[TrainingConfig]) -> ConfigTable:
    table = ConfigTable([row.config for row in rows], ("tokens/s", "peak", ""))
    for row in rows:
        note = Text("a tie" if row.config in tied else "", style="dim")
        table.add(row.trial, row.config, (figure(row.tokens_per_second.median), memory(row.peak_bytes), note))
    return table


def _footer(answer: Answer, formats: Sequence[str]) -> list[str]:
    spent = answer.spent
    counts = ", ".join(f"{count} {spoken(outcome)}" for outcome, count in answer.counts.items() if count)
    hours = f", {spent.gpu_hours:.2f} GPU hours of probes" if spent.gpu_hours else ""
    ended = f"{counted(spent.trials, 'trial')} ({counts or 'none has ended'})"
    lines = [f"{ended} in {clock(spent.seconds)}{hours}"]
    if answer.reason:
        lines.append(answer.reason)
    if answer.status == JobStatus.FAILED:
        lines.append(f"go on: autotune resume {answer.job}")
    if formats:
        lines.append(f"use it: autotune export {answer.job} --to {'|'.join(formats)} --output DIR")
    return lines


def trials_view(rows: Sequence[TrialRow]) -> RenderableType:
    """Every trial, and below the table why those without a figure have none."""
    if not rows:
        return "no trial has begun yet"
    configs = [row.config for row in rows]
    any_figure = any(row.tokens_per_second for row in rows)
    any_moved = any(_has_moved(row) for row in rows)
    headings = (
        "tokens/s",
        *(("95 % interval",) if any_figure else ()),
        *(("first probe",) if any_moved else ()),
        "peak",
        "took",
    )
    table = ConfigTable(configs, headings)
    for row in rows:
        speed, first = row.overall_tokens_per_second, row.tokens_per_second
        told = speed_or_outcome(row.outcome, speed.median if speed else 0.0) or Text(
            row.state.lower(), style="cyan"
        )
        intervals = (interval(speed) if speed else "",) if any_figure else ()
        firsts = (figure(first.median) if first and _has_moved(row) else "",) if any_moved else ()
        figures = (told, *intervals, *firsts, memory(row.overall_peak_bytes), f"{row.seconds:.1f} s")
        table.add(row.number, row.config, figures)
    parts: list[RenderableType] = [table]
    if common := in_common(configs):
        parts += ["", Text(f"all with {common}", style="dim")]
    if any(row.reason for row in rows):
        parts += ["", _reasons(rows)]
    return Group(*parts)


def _has_moved(row: TrialRow) -> bool:
    """Whether its further probes say other than its own."""
    return row.overall_tokens_per_second != row.tokens_per_second


def _reasons(rows: Sequence[TrialRow]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("why it has no figure", overflow="fold")
    for row in rows:
        if row.reason:
            table.add_row(
                str(row.number), f"{spoken(row.outcome)}: {row.reason}" if row.outcome else row.reason
            )
    return table
