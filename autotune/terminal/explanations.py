"""The explanation of a recommendation, for someone who has never seen the tool."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autotune.hardware.sizes import format_bytes
from autotune.report.explanation import JobExplanation, Step
from autotune.report.speedup import against_baseline
from autotune.report.vocabulary import HEADINGS
from autotune.terminal.tables import plain_table
from autotune.terminal.words import clock, describe, figure, interval


def job_explanation_view(explanation: JobExplanation) -> RenderableType:
    """What was chosen and why, what each other choice would cost, and what it cost to find out."""
    speed = explanation.tokens_per_second
    peak, spare = explanation.peak_bytes, explanation.usable_bytes - explanation.peak_bytes
    return Group(
        Text(describe(explanation.config), style="bold green"),
        Text(
            f"{figure(speed.median)} tokens/s ({interval(speed)}), "
            f"peak {format_bytes(peak)} per rank, {format_bytes(spare)} below what is usable"
        ),
        "",
        Text("What bounds it", style="bold"),
        Text(f"{explanation.bounds.bound}: {explanation.bounds.reason}"),
        "",
        Text("What one step either way would change", style="bold"),
        _knobs(explanation),
        Text("measured by a probe, or ~forecast and corrected by the probes of this job", style="dim"),
        "",
        *_rivals(explanation),
        Text("Against the baseline", style="bold"),
        *(Text(line) for line in _against_baseline(explanation)),
        "",
        Text("What it cost", style="bold"),
        *(Text(line) for line in _cost(explanation)),
        "",
        *(Text(f"note: {note}", style="dim") for note in explanation.notes),
    )


def _knobs(explanation: JobExplanation) -> Table:
    table = plain_table()
    table.add_column("knob")
    table.add_column("instead")
    table.add_column("tokens/s", justify="right", no_wrap=True)
    table.add_column("peak", justify="right", no_wrap=True)
    table.add_column("")
    for knob in explanation.knobs:
        name = f"{HEADINGS[knob.field][0]} {knob.value}"
        for step in knob.steps:
            table.add_row(name, str(step.value), _speed(step), _bytes(step), step.why_not or "")
            name = ""
    return table


def _rivals(explanation: JobExplanation) -> list[RenderableType]:
    if not explanation.rivals:
        return []
    table = plain_table()
    table.add_column("trial", justify="right")
    table.add_column("differs by")
    table.add_column("tokens/s", justify="right", no_wrap=True)
    table.add_column("peak", justify="right", no_wrap=True)
    table.add_column("why it is not recommended")
    for rival in explanation.rivals:
        speed, peak = rival.tokens_per_second, rival.peak_bytes
        table.add_row(
            str(rival.trial),
            "\n".join(rival.changes),
            "–" if speed is None else figure(speed.median),
            "–" if peak is None else format_bytes(peak),
            rival.why_not,
        )
    return [Text("Why others lost", style="bold"), table, ""]


def _speed(step: Step) -> Text:
    if step.speed_change is None:
        return Text("–", style="dim")
    style = "green" if step.speed_change > 0 and step.fits else "" if step.fits else "dim"
    return Text(f"{_mark(step)}{step.speed_change:+.0%}", style=style)


def _bytes(step: Step) -> Text:
    if step.bytes_change is None:
        return Text("–", style="dim")
    sign = "+" if step.bytes_change >= 0 else "−"
    style = "" if step.fits else "red"
    return Text(f"{_mark(step)}{sign}{format_bytes(abs(step.bytes_change))}", style=style)


def _mark(step: Step) -> str:
    return "~" if step.source == "forecast" else ""


def _against_baseline(explanation: JobExplanation) -> list[str]:
    gain = explanation.speedup
    if not explanation.baseline_steps:
        return ["the baseline itself is what is recommended"]
    words = [f"  {step}" for step in explanation.baseline_steps]
    if gain is None:
        return [f"no speed-up can be quoted: {explanation.no_speedup}", *words]
    return [f"{against_baseline(gain)}, by", *words]


def _cost(explanation: JobExplanation) -> list[str]:
    cost = explanation.cost
    hours = f", {cost.gpu_hours:.2f} GPU hours of probes" if cost.gpu_hours else ""
    lines = [f"{clock(cost.seconds)}{hours}"]
    gain = explanation.speedup
    if cost.pays_after_hours is not None:
        lines.append(f"paid for after {clock(cost.pays_after_hours * 3600)} of training at the new speed")
    elif gain is not None and explanation.baseline_steps:
        lines.append("whether it pays cannot be told: the gain over the baseline is not beyond doubt")
    return lines
