"""What a search has learned so far: trials as plain records."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from trials.contract.capabilities import ENGINE_OF_SHARDING, EngineName
from trials.contract.config import TrainingConfig
from trials.contract.outcome import VERDICTS, Outcome

ENOUGH_REFUSALS = 3
"""Configurations that an engine may refuse, having run none, before the others are left alone."""


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
    spread: float = 0.0
    """Standard deviation of the logarithm of that figure, as far as its own steps tell."""
    peak_bytes: int | None = None
    reason: str | None = None
    seconds: float = 0.0
    expected_gain: float | None = None
    """What the best candidate promised when this trial was asked for, as a share of the best before."""
    reused_from: str | None = None
    """The job whose probe it was, where this one's did not have to run."""

    @property
    def counts(self) -> bool:
        """Whether it spends one of the budget's trials, now or when it ends as probes usually do."""
        return self.state in (TrialState.RUNNING, TrialState.COMPLETE)


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


def refusing_engines(trials: Iterable[TrialRecord]) -> frozenset[EngineName]:
    """Engines that refused configuration after configuration and never ran one.

    What keeps an engine from running at all, such as a missing compiler, would cost a probe of each of its
    candidates to find out about.
    """
    refused: Counter[EngineName] = Counter()
    running = set()
    for trial in trials:
        engine = ENGINE_OF_SHARDING[trial.config.sharding]
        refused[engine] += trial.outcome == Outcome.INVALID
        if trial.state == TrialState.COMPLETE:
            running.add(engine)
    return frozenset(e for e, count in refused.items() if count >= ENOUGH_REFUSALS and e not in running)


def is_last_crash(outcome: Outcome, earlier: list[TrialRecord]) -> bool:
    """Whether a configuration has crashed as often as it may, `earlier` being its attempts before this one.

    It then counts as one that does not run, like one that does not run in time.
    """
    crashes = sum(trial.outcome == Outcome.CRASHED for trial in earlier)
    return outcome == Outcome.CRASHED and crashes + 1 == VERDICTS[outcome].max_attempts
