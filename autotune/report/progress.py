"""What happens to a job, as JSON for those who watch it."""

import math
from typing import Any

from autotune.search.events import Event, JobStarted, ProbeEnded, ProbeLog, ProbeStarted, Standing
from autotune.search.history import TrialRecord

LOG = "log"
"""Kind of an event of which a job keeps the latest alone."""


def progress(event: Event) -> tuple[str, dict[str, Any]]:
    """The kind of an event, and what it says."""
    if isinstance(event, JobStarted):
        return "started", {
            "ceiling_bytes": event.ceiling_bytes,
            "trials": event.trials,
            "candidates": event.candidates,
            "rejected": [
                {"code": each.code, "reason": each.reason, "count": each.count} for each in event.rejected
            ],
            "notes": list(event.notes),
        }
    if isinstance(event, ProbeStarted):
        config = event.config.model_dump(mode="json")
        return "probe_started", {"trial": event.trial, "repeat": event.repeat, "config": config}
    if isinstance(event, ProbeLog):
        return LOG, {"trial": event.trial, "repeat": event.repeat, "text": event.text}
    if isinstance(event, ProbeEnded):
        return "probe_ended", _ended(event)
    return "standing", _standing(event)


def _ended(event: ProbeEnded) -> dict[str, Any]:
    speed = event.result.tokens_per_second
    return {
        "trial": event.trial,
        "repeat": event.repeat,
        "config": event.config.model_dump(mode="json"),
        "outcome": event.outcome,
        "tokens_per_second": None if speed is None else speed.model_dump(mode="json"),
        "peak_bytes": event.result.peak_bytes,
        "reason": event.result.reason,
        "seconds": event.result.seconds,
        "reused_from": event.reused_from,
    }


def _standing(event: Standing) -> dict[str, Any]:
    return {
        "best": _trial(event.best),
        "baseline": _trial(event.baseline),
        "trials_left": event.trials_left,
        "seconds_spent": event.seconds_spent,
        "seconds_left": event.seconds_left if math.isfinite(event.seconds_left) else None,
    }


def _trial(trial: TrialRecord | None) -> dict[str, Any] | None:
    if trial is None:
        return None
    return {
        "trial": trial.number,
        "config": trial.config.model_dump(mode="json"),
        "tokens_per_second": trial.tokens_per_second,
        "peak_bytes": trial.peak_bytes,
    }
