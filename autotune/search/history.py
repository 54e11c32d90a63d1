"""What a search has learned so far: trials as plain records."""

from dataclasses import dataclass
from enum import StrEnum

from trials.contract.config import TrainingConfig
from trials.contract.outcome import VERDICTS, Outcome


class TrialState(StrEnum):
    """The states of a trial that a search meets, in Optuna's words."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    FAIL = "FAIL"


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a study."""

    number: int
    state: TrialState
    config: TrainingConfig
    outcome: Outcome | None = None
    """None until it has ended."""
    tokens_per_second: float = 0.0
    """As told to the study: 0 for what did not run to a figure."""
    peak_bytes: int | None = None
    reason: str | None = None
    seconds: float = 0.0

    @property
    def counts(self) -> bool:
        """Whether it spends one of the budget's trials, now or when it ends as probes usually do."""
        return self.outcome is None or VERDICTS[self.outcome].counts


def to_ask_again(trials: list[TrialRecord]) -> list[TrainingConfig]:
    """Configurations whose last attempt asks for another, oldest first."""
    attempts: dict[TrainingConfig, list[TrialRecord]] = {}
    for trial in trials:
        attempts.setdefault(trial.config, []).append(trial)
    return [config for config, of_config in attempts.items() if _asks_again(of_config)]


def _asks_again(attempts: list[TrialRecord]) -> bool:
    last = attempts[-1].outcome
    if last is None:
        return False
    limit = VERDICTS[last].max_attempts
    same = sum(trial.outcome == last for trial in attempts)
    return limit is None or same < limit


def settled_outcome(outcome: Outcome, earlier: list[TrialRecord]) -> Outcome:
    """`outcome`, or what it amounts to after `earlier` attempts of the same configuration.

    The last crash that is allowed counts as a configuration that does not run in time.
    """
    limit = VERDICTS[outcome].max_attempts
    same = sum(trial.outcome == outcome for trial in earlier)
    if outcome == Outcome.CRASHED and limit is not None and same + 1 >= limit:
        return Outcome.TIMED_OUT
    return outcome
