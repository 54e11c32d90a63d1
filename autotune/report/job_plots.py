"""Plots of a job: speed over memory, the history of its search, forecast against measured, its knobs."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from autotune.errors import BadInput
from autotune.hardware.sizes import GIB
from autotune.report.answer import Answer
from autotune.report.explanation import JobExplanation
from autotune.report.figures import save_figures
from autotune.report.recommend import Facts
from autotune.search.confirmation import Contender
from trials.contract.outcome import VERDICTS, Outcome

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS: Mapping[Outcome, str] = MappingProxyType(
    {
        Outcome.MEASURED: "#2a7",
        Outcome.OUTPACED: "#8c6",
        Outcome.OUT_OF_MEMORY: "#c33",
        Outcome.NON_FINITE: "#a3a",
        Outcome.TIMED_OUT: "#c90",
    }
)
"""Outcome that completes a trial → its colour."""
LINES = ("#247", "#b52", "#738", "#287", "#961", "#555")
"""Colours of lines, one for each sequence length."""


@dataclass(frozen=True)
class PlottedTrial:
    """One trial that has ended and counts."""

    number: int
    label: str
    """Its configuration in words."""
    sequence_length: int
    outcome: Outcome
    tokens_per_second: float
    """Over all its probes, as the recommendation has it; 0 where it has no figure."""
    peak_bytes: int | None
    forecast_tokens_per_second: float
    forecast_bytes: int


@dataclass(frozen=True)
class Picture:
    """What the plots of a job are made from."""

    job: str
    ceiling_bytes: int
    usable_bytes: int
    trials: Sequence[PlottedTrial]
    recommended: int | None
    """Number of the recommended trial."""
    baseline: int | None
    """Number of the baseline's."""
    explanation: JobExplanation | None

    @property
    def with_speed(self) -> list[PlottedTrial]:
        return [trial for trial in self.trials if trial.tokens_per_second > 0 and trial.peak_bytes]

    @property
    def lengths(self) -> list[int]:
        """Sequence lengths, between which tokens/s do not compare."""
        return sorted({trial.sequence_length for trial in self.trials})

    def named(self, line: str, length: int) -> str:
        """Name of a line, with the length that it is of where there are several."""
        return line if len(self.lengths) == 1 else f"{line}, length {length}"

    def fits(self, trial: PlottedTrial) -> bool:
        return trial.tokens_per_second > 0 and (trial.peak_bytes or 0) <= self.usable_bytes


def picture(facts: Facts, answer: Answer, explanation: JobExplanation | None) -> Picture:
    """What there is to draw of a job."""
    spec, chosen = facts.job.spec, answer.recommendation
    baseline = max((t.number for t in facts.trials if t.config == facts.premises.baseline), default=None)
    return Picture(
        job=answer.job,
        ceiling_bytes=spec.ceiling_bytes,
        usable_bytes=spec.usable_bytes,
        trials=[_plotted(facts, c) for c in facts.contenders if VERDICTS[c.results[0].outcome].completes],
        recommended=None if chosen is None else chosen.trial,
        baseline=baseline,
        explanation=explanation,
    )


def _plotted(facts: Facts, contender: Contender) -> PlottedTrial:
    config = contender.config
    forecast = facts.premises.forecast_of(config)
    return PlottedTrial(
        number=contender.trial,
        label=", ".join(f"{k}={v}" for k, v in config.model_dump(exclude_defaults=True).items()),
        sequence_length=config.sequence_length,
        outcome=contender.results[0].outcome,
        tokens_per_second=contender.tokens_per_second.median if contender.has_speed else 0.0,
        peak_bytes=contender.peak_bytes or None,
        forecast_tokens_per_second=float(forecast.tokens_per_second[0]),
        forecast_bytes=int(forecast.device_bytes[0]),
    )


def speed_over_memory(picture: Picture) -> "Figure":
    """Measured trials with the ceiling and, for each length, the front of those that none beats in both;
    what ran out of memory stands on the ceiling at 0.
    """
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    _add_trials(figure, picture, lambda trial: (trial.peak_bytes or picture.ceiling_bytes) / GIB)
    for length, colour in zip(picture.lengths, itertools.cycle(LINES), strict=False):
        fitting = [t for t in picture.trials if picture.fits(t) and t.sequence_length == length]
        front = _front(fitting)
        figure.add_trace(
            Scatter(
                name=picture.named("front", length),
                x=[(trial.peak_bytes or 0) / GIB for trial in front],
                y=[trial.tokens_per_second for trial in front],
                mode="lines",
                line={"color": colour, "dash": "dot"},
            )
        )
    _mark(figure, picture)
    figure.add_vline(x=picture.ceiling_bytes / GIB, line_color="gray", annotation_text="ceiling")
    figure.add_vline(
        x=picture.usable_bytes / GIB,
        line_color="gray",
        line_dash="dash",
        annotation_text="usable",
        annotation_position="top left",
    )
    return _titled(figure, picture, "speed over memory", "peak of the worst rank, GiB", "tokens/s")


def history(picture: Picture) -> "Figure":
    """Each trial's tokens/s in the order in which they were made, and the best so far at each length."""
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    numbers = [trial.number for trial in picture.trials]
    _add_trials(figure, picture, lambda trial: trial.number)
    for length, colour in zip(picture.lengths, itertools.cycle(LINES), strict=False):
        own = [
            trial.tokens_per_second if picture.fits(trial) and trial.sequence_length == length else 0.0
            for trial in picture.trials
        ]
        bests = list(itertools.accumulate(own, max))
        first = next((index for index, best in enumerate(bests) if best), len(bests))
        if first == len(bests):
            continue
        figure.add_trace(
            Scatter(
                name=picture.named("best so far", length),
                x=numbers[first:],
                y=bests[first:],
                mode="lines",
                line={"shape": "hv", "color": colour},
            )
        )
    baseline = next((t for t in picture.trials if t.number == picture.baseline), None)
    if baseline is not None and baseline.tokens_per_second:
        figure.add_hline(
            y=baseline.tokens_per_second,
            line_dash="dash",
            line_color="gray",
            annotation_text=picture.named("baseline", baseline.sequence_length),
        )
    return _titled(figure, picture, "history of the search", "trial", "tokens/s")


def forecast_against_measured(picture: Picture) -> "Figure":
    """Speed and memory, measured over forecast: on the diagonal a forecast was right."""
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    figure: Figure = make_subplots(rows=1, cols=2, subplot_titles=("tokens/s", "peak, GiB"))
    trials = picture.with_speed
    pairs = (
        [(trial.forecast_tokens_per_second, trial.tokens_per_second) for trial in trials],
        [(trial.forecast_bytes / GIB, (trial.peak_bytes or 0) / GIB) for trial in trials],
    )
    for column, points in enumerate(pairs, start=1):
        if not points:
            continue
        figure.add_trace(
            Scatter(
                x=[forecast for forecast, _ in points],
                y=[measured for _, measured in points],
                text=[f"trial {trial.number}: {trial.label}" for trial in trials],
                mode="markers",
                showlegend=False,
                marker={"size": 9, "color": "#2a7"},
            ),
            row=1,
            col=column,
        )
        ends = [min(map(min, points)), max(map(max, points))]
        figure.add_trace(
            Scatter(x=ends, y=ends, mode="lines", line={"color": "gray", "dash": "dash"}, showlegend=False),
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text="forecast", row=1, col=column)
        figure.update_yaxes(title_text="measured", row=1, col=column)
    return _titled(figure, picture, "forecast against measured")


def knobs(picture: Picture) -> "Figure":
    """How tokens/s would change with each other value of each knob, measured or forecast."""
    from plotly.graph_objects import Bar, Figure

    figure = Figure()
    explanation = picture.explanation
    for source, colour in (("measured", "#2a7"), ("forecast", "#9ab")):
        steps = [
            (f"{knob.field}: {knob.value} → {step.value}", step)
            for knob in (explanation.knobs if explanation else ())
            for step in knob.steps
            if step.source == source and step.speed_change is not None
        ]
        if steps:
            figure.add_trace(
                Bar(
                    name=source,
                    y=[label for label, _ in steps],
                    x=[100 * (step.speed_change or 0.0) for _, step in steps],
                    text=["" if step.fits else "does not fit" for _, step in steps],
                    orientation="h",
                    marker_color=colour,
                )
            )
    figure.update_yaxes(autorange="reversed")
    return _titled(figure, picture, "what each knob would change", "change of tokens/s, %")


PLOTS: Mapping[str, Callable[[Picture], "Figure"]] = MappingProxyType(
    {
        "speed_over_memory": speed_over_memory,
        "history": history,
        "forecast_against_measured": forecast_against_measured,
        "knobs": knobs,
    }
)
"""Name → how it is drawn."""


def save_plots(picture: Picture, folder: Path, formats: Sequence[str] = ("html",)) -> list[Path]:
    """Write every plot as NAME.html, NAME.png or both; raises BadInput where it cannot."""
    figures = {name: draw(picture) for name, draw in PLOTS.items()}
    files = {folder / f"{name}.{suffix}": figure for name, figure in figures.items() for suffix in formats}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write plots to {folder}: {error.strerror}; choose another folder") from error
    save_figures(files)
    return list(files)


def _add_trials(figure: "Figure", picture: Picture, x: Callable[[PlottedTrial], float]) -> None:
    """All trials as points, by outcome; `x` says where each stands, its tokens/s how high."""
    from plotly.graph_objects import Scatter

    for outcome, colour in COLOURS.items():
        of_outcome = [trial for trial in picture.trials if trial.outcome == outcome]
        if of_outcome:
            figure.add_trace(
                Scatter(
                    name=outcome.replace("_", " "),
                    x=[x(trial) for trial in of_outcome],
                    y=[trial.tokens_per_second for trial in of_outcome],
                    text=[f"trial {trial.number}: {trial.label}" for trial in of_outcome],
                    mode="markers",
                    marker={"color": colour, "size": 9, "symbol": _symbol(outcome)},
                )
            )


def _front(trials: Sequence[PlottedTrial]) -> list[PlottedTrial]:
    front: list[PlottedTrial] = []
    for trial in sorted(trials, key=lambda t: (t.peak_bytes or 0, -t.tokens_per_second)):
        if not front or trial.tokens_per_second > front[-1].tokens_per_second:
            front.append(trial)
    return front


def _mark(figure: "Figure", picture: Picture) -> None:
    """Name the recommended trial and the baseline."""
    below, above = {"ax": -50, "ay": 40}, {"ax": 0, "ay": -30}
    for number, words, where in (
        (picture.baseline, "baseline", below),
        (picture.recommended, "recommended", above),
    ):
        trial = next((t for t in picture.trials if t.number == number), None)
        if trial is not None and trial.tokens_per_second:
            figure.add_annotation(
                x=(trial.peak_bytes or 0) / GIB, y=trial.tokens_per_second, text=words, arrowhead=2, **where
            )


def _symbol(outcome: Outcome) -> str:
    return "circle" if VERDICTS[outcome].has_speed else "x"


def _titled(
    figure: "Figure", picture: Picture, title: str, x: str | None = None, y: str | None = None
) -> "Figure":
    figure.update_layout(title=f"{picture.job}: {title}", template="plotly_white", height=520)
    if x is not None:
        figure.update_xaxes(title_text=x)
    if y is not None:
        figure.update_yaxes(title_text=y)
    return figure
