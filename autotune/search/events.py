"""What a search tells whoever watches it."""

from dataclasses import dataclass
from typing import Protocol

from autotune.search.history import TrialRecord
from search_spaces.constraints import Rejection
from trials.contract.config import TrainingConfig
from trials.contract.messages import ProbeResult
from trials.contract.outcome import Outcome


@dataclass(frozen=True)
class JobStarted:
    name: str
    ceiling_bytes: int
    trials: int
    candidates: int = 0
    """Configurations that are legal and may fit."""
    rejected: tuple[Rejection, ...] = ()
    """The others of the space, by reason."""
    notes: tuple[str, ...] = ()
    """Sentences on what was left out of the model's configuration, or assumed."""


@dataclass(frozen=True)
class ProbeStarted:
    trial: int
    config: TrainingConfig
    repeat: int = 0
    """0 for the trial's own probe, else the number of its confirmation."""


@dataclass(frozen=True)
class ProbeLog:
    """How far a running probe has come, and what it printed last."""

    trial: int
    repeat: int
    text: str


@dataclass(frozen=True)
class ProbeEnded:
    trial: int
    config: TrainingConfig
    outcome: Outcome
    result: ProbeResult
    repeat: int = 0
    reused_from: str | None = None
    """The job that measured it, where this one did not have to."""


@dataclass(frozen=True)
class Standing:
    """Where the search is, after each probe."""

    history: tuple[TrialRecord, ...]
    best: TrialRecord | None
    baseline: TrialRecord | None
    trials_left: int
    seconds_spent: float
    seconds_left: float


Event = JobStarted | ProbeStarted | ProbeLog | ProbeEnded | Standing


class Listener(Protocol):
    def __call__(self, event: Event) -> None: ...
