"""The recommendation as Markdown: the note of its study in the Optuna dashboard."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from autotune.hardware.sizes import format_bytes
from autotune.jobs import JobStatus
from autotune.report.answer import Answer, Recommendation
from autotune.report.explanation import JobExplanation
from autotune.report.speedup import against_baseline

ENDED: Mapping[JobStatus, str] = MappingProxyType(
    {
        JobStatus.QUEUED: "It waits: {}.",
        JobStatus.RUNNING: "It goes on: {}.",
        JobStatus.PAUSED: "The search stands still, and this is the best so far: {}.",
        JobStatus.FINISHED: "The search ended because {}.",
        JobStatus.FAILED: "The search failed, and this is the best so far: {}.",
        JobStatus.CANCELLED: "The search was given up, and this is the best so far: {}.",
    }
)
"""Status → how its reason is told."""


def note(answer: Answer, explanation: JobExplanation | None) -> str:
    """What a reader of the study should know first."""
    return "\n".join(_lines(answer, explanation)) + "\n"


def _lines(answer: Answer, explanation: JobExplanation | None) -> Iterator[str]:
    yield f"# {answer.job}"
    yield ""
    if answer.recommendation is None:
        yield f"Nothing is recommended: {answer.reason or answer.status}."
        return
    yield from _recommendation(answer.recommendation)
    if explanation is not None:
        yield ""
        yield f"**Bound by {explanation.bounds.bound}**: {explanation.bounds.reason}."
    if answer.reason:
        yield ""
        yield ENDED[answer.status].format(answer.reason)
    yield ""
    yield f"[The page of the job](/jobs/{answer.job})"
    yield ""
    yield f"`autotune explain {answer.job}` says what each other choice would cost."
    yield "Trials with 0 tokens/s did not run to a figure; their `reason` says why."
    yield (
        "The values of the study are those of first probes. The recommendation rests on further probes, side "
        "by side, where it is confirmed: its figure need not be its trial's value."
    )


def _recommendation(chosen: Recommendation) -> Iterator[str]:
    speed = chosen.tokens_per_second
    yield (
        f"**Trial {chosen.trial}**, {chosen.evidence}: **{speed.median:,.0f} tokens/s** ({speed.low:,.0f} to "
        f"{speed.high:,.0f}), peak {format_bytes(chosen.peak_bytes)} of {format_bytes(chosen.ceiling_bytes)}."
    )
    yield ""
    gain = chosen.speedup
    if gain is not None:
        words = against_baseline(gain)
        yield f"{words[0].upper()}{words[1:]}."
    else:
        yield f"No speed-up over the baseline can be quoted: {chosen.baseline.reason}."
    yield ""
    yield "| field | value |"
    yield "|---|---|"
    for field, value in chosen.config.model_dump(exclude_defaults=True).items():
        yield f"| {field} | {value} |"
