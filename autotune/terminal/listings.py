"""Jobs, models, devices and spaces as tables."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autotune.jobs import Job
from autotune.report.narrowed import NarrowedSpace
from autotune.terminal.tables import Fitting, plain_table
from autotune.terminal.words import clock

COUNTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
"""How parameters are counted."""
MOST_LISTED = 8
"""Counts of a dimension, before they shrink to their range."""


def jobs_view(jobs: Sequence[Job], done: Iterable[int]) -> RenderableType:
    """`done` has the trials that each job has spent of its budget."""
    if not jobs:
        return "no job in this database yet; `autotune tune MODEL --gpus SPEC` makes one"
    table = plain_table()
    for name in ("name", "status", "model", "gpus"):
        table.add_column(name, overflow="fold")
    table.add_column("trials", justify="right", no_wrap=True)
    table.add_column("spent", justify="right", no_wrap=True)
    table.add_column("driver, or why it ended")
    for job, trials in zip(jobs, done, strict=True):
        spec, why = job.spec, job.driver or job.reason or ""
        spent, budget = clock(job.spent_s), f"{trials}/{spec.trials}"
        table.add_row(job.name, job.status, spec.model.name, spec.gpus, budget, spent, why)
    return table


def tokens_view(rows: Sequence[dict[str, Any]]) -> RenderableType:
    if not rows:
        return "no token yet; `autotune tokens --add NAME` makes one"
    table = plain_table()
    for name in ("name", "role", "made"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(row["name"], row["role"], f"{row['created_at']:%Y-%m-%d %H:%M} UTC")
    return table


def models_view(rows: Sequence[dict[str, Any]]) -> RenderableType:
    headings = {
        "parameters": "parameters", "layers": "layers", "hidden_size": "hidden", "heads": "heads",
        "kv_heads": "KV heads", "vocab_size": "vocabulary", "experts": "experts",
    }  # fmt: skip
    table = plain_table()
    table.add_column("name", no_wrap=True)
    for heading in headings.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = {key: f"{row[key]:,}" for key in headings}
        cells["parameters"] = _count(row["parameters"])
        cells["experts"] = str(row["experts"]) if row["experts"] > 1 else ""
        table.add_row(row["name"], *cells.values())
    return table


def gpus_view(known: Sequence[dict[str, Any]], here: Sequence[dict[str, Any]]) -> RenderableType:
    def table(*, sources: bool) -> Table:
        table = plain_table()
        table.add_column("name", no_wrap=True)
        for name in ("memory", "bandwidth", "bf16, dense", "link"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("formats", no_wrap=True)
        if sources:
            table.add_column("source", max_width=60)
        for row in known:
            tflops = f"{row['bf16_tflops']:,.0f} TFLOPS" if row["bf16_tflops"] else ""
            formats = " ".join(f for f in ("bf16", "fp16", "fp8") if f in row["features"])
            cells = [
                row["name"], f"{row['memory_gib']} GiB", f"{row['bandwidth_gb_per_s']:,.0f} GB/s",
                tflops, f"{row['link_gb_per_s']:,.0f} GB/s", formats,
            ]  # fmt: skip
            table.add_row(*cells, *([row["source"]] if sources else []))
        return table

    found = [
        ("" if g["nodes"] == 1 else f"{g['nodes']} nodes of ")
        + f"{g['per_node']} × {g['name']} with {g['memory_gib_each']} GiB each"
        for g in here
    ]
    return Group(
        Fitting(lambda: table(sources=True), lambda: table(sources=False)),
        "",
        Text.assemble(("--gpus auto takes: ", "bold"), "; ".join(found)),
    )


def spaces_view(rows: Sequence[dict[str, Any]]) -> RenderableType:
    table = plain_table()
    table.add_column("name", no_wrap=True)
    table.add_column("description")
    table.add_column("what varies")
    for row in rows:
        table.add_row(row["name"], row["description"], ", ".join(row["varies"]))
    return table


def narrowed_view(space: NarrowedSpace) -> RenderableType:
    """Each dimension with what is left of it, and why the rest has gone."""
    head = Text(f"{space.space} for {space.model} on {space.gpus}", style="bold")
    counts = Text(f"{space.legal:,} of {space.total:,} configurations can be probed")
    table = plain_table()
    table.add_column("dimension", no_wrap=True)
    table.add_column("values", overflow="fold")
    for field, values in space.dimensions.items():
        table.add_row(field, Text(_listed(values), style="" if values else "red"))
    gone = [Text(f"without {one.field}={_said(one.value)}: {one.reason}") for one in space.left_out]
    rest = [Text(f"left out {r.count:,}: {r.reason}", style="dim") for r in space.rejected]
    notes = [Text(f"note: {note}", style="dim") for note in space.notes]
    lines: list[RenderableType] = []
    for block in (gone, rest, notes):
        lines += ["", *block] if block else []
    return Group(head, counts, "", table, *lines)


def _listed(values: Sequence[bool | int | str]) -> str:
    if len(values) > MOST_LISTED and all(type(value) is int for value in values):
        return f"{values[0]} to {values[-1]}, {len(values)} values"
    return ", ".join(map(_said, values)) or "none"


def _said(value: bool | int | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _count(number: int) -> str:
    """Three digits, so that 999.9 million are a billion."""
    size, letter = next(((s, letter) for s, letter in COUNTS if number >= 0.9995 * s), (1.0, ""))
    return f"{f'{number / size:#.3g}'.rstrip('.')} {letter}".rstrip()
