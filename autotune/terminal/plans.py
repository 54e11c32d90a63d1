"""A plan, and the explanation of one configuration, as a person would want them told."""

from collections.abc import Mapping, Sequence
from functools import partial

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autotune.hardware.sizes import GIB, MIB, format_bytes
from autotune.report.plan import Explanation, Plan, PlanRow
from autotune.terminal.tables import SHORT, Cell, ConfigTable, Fitting, plain_table
from autotune.terminal.words import caveats, describe, figure, in_common

PART_COLOURS: Mapping[str, str] = {
    "weights": "blue",
    "gradients": "cyan",
    "master": "bright_blue",
    "optimizer": "magenta",
    "activations": "yellow",
    "transient": "red",
    "fixed": "bright_black",
}
"""Part of the peak → its colour in the bars."""


def plan_view(plan: Plan) -> RenderableType:
    """What fits, fastest first; why the rest does not; what would help where nothing does."""
    usable = format_bytes(int(plan.ceiling_bytes * (1 - plan.headroom)))
    head = Text(f"{plan.model} on {plan.gpus}", style="bold")
    head.append(
        f" · {plan.parameters / 1e9:.3g}B parameters · usable {usable} of {format_bytes(plan.ceiling_bytes)}",
        style="not bold",
    )
    counts = f"{plan.fitting:,} of {plan.candidates:,} legal configurations of the space {plan.space} fit"
    parts: list[RenderableType] = [head, Text(counts)]
    if plan.calibrated_by:
        parts.append(Text(f"calibrated by {plan.calibrated_by} measurements on this hardware"))
    parts.append("")
    rows = plan.ranked or ((plan.nearest,) if plan.nearest else ())
    if not plan.ranked:
        parts.append(Text("nothing fits; what needs least:", style="bold red"))
    parts.append(_rows(rows))
    if common := in_common([row.config for row in rows]):
        parts.append(Text(f"all with {common}", style="dim"))
    parts += [Text(line, style="bold") for line in plan.advice]
    parts += [Text(f"mind the first: {words}") for row in rows[:1] for words in caveats(row.config)]
    unprobed = {row.unprobed for row in rows if row.unprobed}
    parts += [Text(f"* forecast only: {reason}", style="dim") for reason in sorted(unprobed)]
    parts += ["", *(Text(f"left out {r.count:,}: {r.reason}", style="dim") for r in plan.rejected)]
    parts += [Text(f"note: {note}", style="dim") for note in plan.notes]
    return Group(*parts)


def _rows(rows: Sequence[PlanRow]) -> RenderableType:
    groups = len({row.gpus for row in rows}) > 1
    offloads = any(row.host_bytes for row in rows)
    traced = any(row.traced_bytes is not None for row in rows)
    headings = [
        "tokens/s",
        "MFU",
        "device memory",
        *(["CPU memory"] if offloads else []),
        "of the ceiling",
        *(["tensors, traced"] if traced else []),
        *(["on"] if groups else []),
    ]
    table = ConfigTable([row.config for row in rows], headings, number="", legend=_legend())
    for number, row in enumerate(rows, start=1):
        held = row.device_bytes
        cells: list[Cell] = [
            figure(row.tokens_per_second) + ("*" if row.unprobed else ""),
            "" if row.mfu is None else f"{row.mfu:.0%}",
            format_bytes(held),
            *([format_bytes(row.host_bytes) if row.host_bytes else ""] if offloads else []),
            partial(_bar, row, held),
        ]
        if traced:
            cells.append("" if row.traced_bytes is None else format_bytes(row.traced_bytes))
        if groups:
            cells.append(row.gpus)
        table.add(number, row.config, cells)
    return table


def _bar(row: PlanRow, held_bytes: int, width: int) -> Text:
    """The parts of the peak, stretched to what the device holds; │ is the ceiling."""
    scale = width / max(row.ceiling_bytes, held_bytes)
    stretch = held_bytes / max(row.peak_bytes, 1)
    bar, drawn, end = Text(), 0, 0.0
    for part, size in row.memory.items():
        end += size * stretch * scale
        cells = round(end) - drawn
        bar.append("█" * cells, style=PART_COLOURS[part])
        drawn += cells
    mark = round(row.ceiling_bytes * scale)
    bar.append("░" * max(0, mark - drawn), style="dim")
    return bar + Text("│", style="bold")


def _legend() -> Text:
    """On two lines, for a bar is drawn on a terminal of 80 columns too."""
    parts = [Text("█ ", style=colour).append(part, style="dim") for part, colour in PART_COLOURS.items()]
    return Text("\n").join(Text("  ").join(some) for some in (parts[:4], parts[4:]))


def explanation_view(explanation: Explanation) -> RenderableType:
    """Memory by part and phase, time by what it is spent on."""
    peak = max(explanation.phases.values(), key=lambda parts: sum(parts.values()))
    held = explanation.reserved_bytes + peak["fixed"]
    usable = int(explanation.ceiling_bytes * (1 - explanation.headroom))
    host, usable_host = explanation.host_bytes, explanation.usable_host_bytes
    if explanation.fits:
        verdict = "fits"
    elif held > usable:
        verdict = f"is {format_bytes(held - usable)} over"
    elif usable_host is not None and host > usable_host:
        verdict = f"offloads {format_bytes(host - usable_host)} more than a node's CPU memory has for it"
    else:
        verdict = "may be over, for what was measured here is not yet certain enough"
    memory = Fitting(*(partial(_phases, explanation, peak, is_short=is_short) for is_short in (False, True)))
    speed = f"{figure(explanation.tokens_per_second)} tokens/s"
    if explanation.mfu is not None:
        speed += f", MFU {explanation.mfu:.0%}"
    lines = [
        Text(describe(explanation.config), style="bold"),
        Text(f"on {explanation.gpus}: {speed}; {verdict}", style="" if explanation.fits else "bold red"),
        Text(
            f"tensors and fixed parts peak at {format_bytes(explanation.peak_bytes)}; the device holds "
            f"{format_bytes(held)}, the allocator's spare blocks included; usable {format_bytes(usable)}"
        ),
    ]
    if host:
        lines.append(Text(f"offloads {format_bytes(host)} to the CPU memory of each node"))
    if explanation.unprobed:
        lines.append(Text(f"forecast only: {explanation.unprobed}", style="dim"))
    return Group(*lines, "", memory, "", _seconds(explanation))


def _phases(explanation: Explanation, peak: Mapping[str, int], *, is_short: bool) -> Table:
    """Parts of the peak in each phase; short, all in the unit of the peak, which is told once."""
    unit, name = (GIB, "GiB") if sum(peak.values()) >= GIB else (MIB, "MiB")
    table = plain_table(1 if is_short else 2)
    table.add_column(f"phase, {name}" if is_short else "phase", no_wrap=True)
    for part in (*PART_COLOURS, "sum"):
        table.add_column(SHORT.get(part, part) if is_short else part, justify="right", no_wrap=True)
    for phase, parts in explanation.phases.items():
        sizes = (*parts.values(), sum(parts.values()))
        cells = [f"{size / unit:.2f}" if is_short else format_bytes(size) for size in sizes]
        shown = [cell if size else "" for cell, size in zip(cells, sizes, strict=True)]
        table.add_row(phase, *shown, style="bold" if parts is peak else "")
    return table


def _seconds(explanation: Explanation) -> Table:
    table = plain_table()
    table.add_column("of a step")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    for name, seconds in explanation.seconds.items():
        if seconds:
            table.add_row(name, f"{seconds:.4g}", f"{seconds / explanation.step_s:.0%}")
    table.add_row("step", f"{explanation.step_s:.4g}", "", style="bold")
    return table
