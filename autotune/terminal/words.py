"""How configurations, figures and spans of time are put into words."""

from collections.abc import Sequence

from autotune.hardware.sizes import format_bytes
from autotune.report.vocabulary import ALWAYS, CAVEATS, HEADINGS, NEVER_UNSAID, SAID, USUAL
from autotune.search.events import JobStarted
from autotune.search.history import TrialRecord
from autotune.search.stopping import counted
from trials.contract.config import TrainingConfig
from trials.contract.messages import Estimate
from trials.contract.outcome import Outcome

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
    return " ".join(word for field in HEADINGS if (word := _word(config, field)))


def varying(configs: Sequence[TrainingConfig]) -> list[str]:
    """The fields that deserve a column in a table of `configs`."""
    return [
        field
        for field in HEADINGS
        if field in ALWAYS or len({getattr(config, field) for config in configs}) > 1
    ]


def in_common(configs: Sequence[TrainingConfig]) -> str:
    """What need be said only once of a table of `configs`, for it has no column."""
    if not configs:
        return ""
    columns, first = varying(configs), configs[0]
    return ", ".join(
        f"{HEADINGS[field][0]} {getattr(first, field)}"
        for field in HEADINGS
        if field not in columns and _word(first, field)
    )


def _word(config: TrainingConfig, field: str) -> str:
    value = getattr(config, field)
    if field not in NEVER_UNSAID and value == getattr(USUAL, field):
        return ""
    said = str(value).lower() if isinstance(value, bool) else value  # as --set takes it
    return SAID.get(field, field + "={}").format(said)


def caveats(config: TrainingConfig) -> list[str]:
    """What a probe cannot see: choices that are faster or smaller, but not the same training."""
    return [words for field, value, words in CAVEATS if getattr(config, field) == value]


def spoken(outcome: Outcome) -> str:
    return outcome.replace("_", " ")


def opening(job: JobStarted) -> list[str]:
    """What to know of a job before its first probe: how much there is to try, and what is left out."""
    most, ceiling = counted(job.trials, "trial"), format_bytes(job.ceiling_bytes)
    lines = [f"job {job.name}: at most {most} under {ceiling} per device"]
    if job.candidates:
        lines[0] += f", {counted(job.candidates, 'candidate')}"
    lines += [f"  left out {rejection.count:,}: {rejection.reason}" for rejection in job.rejected]
    return lines + [f"  note: {note}" for note in job.notes]


def figure(tokens_per_second: float) -> str:
    """Three digits at least, and no more decimals than that takes."""
    return f"{tokens_per_second:,.0f}" if tokens_per_second >= 100 else f"{tokens_per_second:.3g}"


def interval(estimate: Estimate) -> str:
    return f"{figure(estimate.low)} to {figure(estimate.high)}"


def clock(seconds: float) -> str:
    """A span of time: `17 s`, `2 min 38 s`, `1 h 02 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def roughly(seconds: float) -> str:
    """A span of time that is only guessed: `under a minute`, `about 4 min`, `about 1 h 20 min`."""
    if seconds < 60:
        return "under a minute"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"about {hours} h {minutes:02d} min" if hours else f"about {minutes} min"


def over_baseline(best: TrialRecord, baseline: TrialRecord | None) -> str:
    """How the best compares, as the rest of a sentence; nothing where the baseline has no figure."""
    if baseline is None or not baseline.tokens_per_second:
        return ""
    if baseline.number == best.number:
        return ", the baseline itself"
    return f", {best.tokens_per_second / baseline.tokens_per_second:.2f}× the baseline"
