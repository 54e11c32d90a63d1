"""Plots of a plan, as one file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.hardware.sizes import GIB
from autotune.report.figures import save_figures
from autotune.report.plan import Plan, PlanRow
from trials.contract.config import TrainingConfig

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ALWAYS_TOLD = ("micro_batch_size", "sharding", "precision", "sequence_length")


def save_plan(plan: Plan, path: Path) -> None:
    """Write memory by part, and speed over memory, as HTML or PNG; raises BadInput where it cannot."""
    save_figures({path: plan_figure(plan)})


def plan_figure(plan: Plan) -> "Figure":
    """Stacked bars of the ranked rows, and all of them as points with the ceiling and the Pareto front."""
    from plotly.graph_objects import Bar, Figure, Scatter
    from plotly.subplots import make_subplots

    rows = plan.ranked or ((plan.nearest,) if plan.nearest else ())
    labels, common = _labels(rows)
    figure: Figure = make_subplots(
        rows=2,
        cols=1,
        subplot_titles=("Memory of one rank at its peak, by part", "Speed over memory"),
        vertical_spacing=0.16,
    )
    for part in rows[0].memory if rows else ():
        sizes = [row.memory[part] / GIB for row in rows]
        figure.add_trace(Bar(name=part, y=labels, x=sizes, orientation="h"), row=1, col=1)
    held = [row.device_bytes / GIB for row in rows]
    speeds = [row.tokens_per_second for row in rows]
    figure.add_trace(
        Scatter(
            name="configuration",
            x=held,
            y=speeds,
            mode="markers",
            text=labels,
            showlegend=False,
            marker={"color": "#9ab", "size": 9},
        ),
        row=2,
        col=1,
    )
    front = pareto_front(rows)
    figure.add_trace(
        Scatter(
            name="Pareto front",
            x=[row.device_bytes / GIB for row in front],
            y=[row.tokens_per_second for row in front],
            mode="lines+markers",
            line={"color": "#2a7"},
        ),
        row=2,
        col=1,
    )
    ceilings = sorted({row.ceiling_bytes / GIB for row in rows} or {plan.ceiling_bytes / GIB})
    lines = [(ceiling, "ceiling", "solid", "right") for ceiling in ceilings]
    lines += [(ceiling * (1 - plan.headroom), "usable", "dash", "left") for ceiling in ceilings]
    for at, name, dash, side in lines:
        style: dict[str, Any] = {
            "line_dash": dash,
            "line_color": "gray",
            "annotation_text": name,
            "annotation_position": f"top {side}",
        }
        figure.add_vline(x=at, row=1, col=1, **style)
        figure.add_vline(x=at, row=2, col=1, **style)
    figure.update_xaxes(title_text="GiB per rank, parts of the peak", row=1, col=1)
    figure.update_xaxes(title_text="GiB per rank, held on the device", row=2, col=1)
    figure.update_yaxes(title_text="tokens/s", row=2, col=1)
    figure.update_yaxes(autorange="reversed", row=1, col=1)
    figure.update_layout(
        barmode="stack",
        title={
            "text": f"{plan.model} on {plan.gpus}: {plan.fitting:,} of {plan.candidates:,} fit",
            "subtitle": {"text": f"all with {common}" if common else ""},
        },
        height=360 + 28 * len(rows) + 420,
        template="plotly_white",
    )
    return figure


def pareto_front(rows: tuple[PlanRow, ...]) -> list[PlanRow]:
    """Those that none other beats in both speed and memory, leanest first."""
    front: list[PlanRow] = []
    for row in sorted(rows, key=lambda row: (row.device_bytes, -row.tokens_per_second)):
        if not front or row.tokens_per_second > front[-1].tokens_per_second:
            front.append(row)
    return front


def _labels(rows: Sequence[PlanRow]) -> tuple[list[str], str]:
    """What tells each row from the others, and what they have in common that is not the default."""
    told = [row.config.model_dump() for row in rows]
    varying = [field for field in TrainingConfig.model_fields if len({str(one[field]) for one in told}) > 1]
    labels = [
        f"{number}. " + ", ".join(f"{field}={one[field]}" for field in varying)
        for number, one in enumerate(told, start=1)
    ]
    usual = TrainingConfig().model_dump()
    common = [
        f"{field}={told[0][field]}"
        for field in (usual if told else ())
        if field not in varying and (field in ALWAYS_TOLD or told[0][field] != usual[field])
    ]
    return labels, ", ".join(common)
