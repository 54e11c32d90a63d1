"""The Optuna study of a job: it owns the trials, and is spoken to only here."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial
from optuna.trial import TrialState as OptunaState

from autotune.search.candidates import Candidates, Indices
from autotune.search.encoding import Encoding
from autotune.search.history import TrialRecord, TrialState
from autotune.search.samplers import distributions, make_sampler
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig
from trials.contract.messages import ProbeResult
from trials.contract.outcome import VERDICTS, Outcome

CONFIG, OUTCOME, REASON, PEAK, SECONDS = "config", "outcome", "reason", "peak_bytes", "seconds"
"""User attributes of a trial; the dashboard and its CSV show them."""

LEAST_MEMORY_VIOLATION = 0.02
"""Of an out-of-memory whose forecast said that it fits."""

_STATES: Mapping[OptunaState, TrialState] = MappingProxyType(
    {
        OptunaState.WAITING: TrialState.WAITING,
        OptunaState.RUNNING: TrialState.RUNNING,
        OptunaState.COMPLETE: TrialState.COMPLETE,
        OptunaState.FAIL: TrialState.FAIL,
        OptunaState.PRUNED: TrialState.FAIL,
    }
)


@dataclass(frozen=True)
class Asked:
    number: int
    config: TrainingConfig


class SearchStudy:
    """Asks for configurations and is told what became of them."""

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        candidates: Candidates,
        baseline: TrainingConfig,
        sampler: str,
        seed: int,
    ) -> None:
        """Create the study `name`, or take up the one there is.

        `baseline` widens the parameters where it lies outside the candidates. Raises BadInput for an
        unknown sampler.
        """
        _quiet_optuna()
        self._candidates = candidates
        self._encoding = Encoding.of(_with(candidates.columns, baseline))
        self._space = distributions(self._encoding)
        self._sampler = make_sampler(sampler, candidates, self._encoding, seed, self._records)
        self._study: Study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", sampler=self._sampler, load_if_exists=True
        )

    def trials(self) -> list[TrialRecord]:
        """Every trial so far, by number."""
        return self._records(self._study.get_trials(deepcopy=False))

    def abandon_unnamed(self) -> None:
        """Fail the trials whose driver died before it had written down a configuration."""
        for trial in self._study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,)):
            if self._config(trial) is None:
                self._study.tell(trial.number, state=OptunaState.FAIL, skip_if_finished=True)

    def remaining(self) -> Indices:
        """Candidates that no trial has had yet."""
        return self._sampler.remaining(self._study.get_trials(deepcopy=False))

    def ask(self) -> Asked:
        """A new trial of a remaining candidate. Ask only while there is one."""
        return self._begin()

    def ask_for(self, config: TrainingConfig) -> Asked:
        """A new trial of just this configuration."""
        # Asked right after, and only this driver asks: the queue never holds more than one.
        self._study.enqueue_trial(
            self._encoding.params(config), user_attrs={CONFIG: config.model_dump(mode="json")}
        )
        return self.ask_queued()

    def ask_queued(self) -> Asked:
        """The trial that waits in the queue, where a driver died between putting and taking it."""
        return self._begin()

    def tell(self, number: int, result: ProbeResult, outcome: Outcome) -> None:
        """Record what became of a trial; `outcome` may be graver than the probe's own."""
        verdict = VERDICTS[outcome]
        trial = Trial(self._study, self._id(number))
        for key, value in _attributes(result, outcome).items():
            trial.set_user_attr(key, value)
        if not verdict.completes:
            self._study.tell(trial, state=OptunaState.FAIL, skip_if_finished=True)
            return
        config = self._config(self._study.get_trials(deepcopy=False)[number])
        assert config is not None, "a probe ran, so there is a configuration"
        trial.set_constraint("memory", self._memory_constraint(config, result, outcome))
        trial.set_constraint("runs", 0.0 if verdict.has_speed or outcome == Outcome.OUT_OF_MEMORY else 1.0)
        speed = result.tokens_per_second.median if verdict.has_speed and result.tokens_per_second else 0.0
        self._study.tell(trial, speed if math.isfinite(speed) else 0.0, skip_if_finished=True)

    def _begin(self) -> Asked:
        trial = self._study.ask(self._space)
        if CONFIG in trial.user_attrs:
            return Asked(trial.number, TrainingConfig.model_validate(trial.user_attrs[CONFIG]))
        index = self._sampler.index(trial.params)
        assert index is not None, "the sampler proposes candidates only"
        config = self._candidates.config(index)
        trial.set_user_attr(CONFIG, config.model_dump(mode="json"))
        return Asked(trial.number, config)

    def _records(self, trials: list[FrozenTrial]) -> list[TrialRecord]:
        named = ((trial, self._config(trial)) for trial in trials)
        return [_record(trial, config) for trial, config in named if config is not None]

    def _config(self, trial: FrozenTrial) -> TrainingConfig | None:
        """The configuration of a trial, which has its parameters a moment before it has the attribute."""
        if CONFIG in trial.user_attrs:
            return TrainingConfig.model_validate(trial.user_attrs[CONFIG])
        index = self._sampler.index(trial.params)
        return None if index is None else self._candidates.config(index)

    def _id(self, number: int) -> int:
        trial: FrozenTrial = self._study.get_trials(deepcopy=False)[number]
        return trial._trial_id

    def _memory_constraint(self, config: TrainingConfig, result: ProbeResult, outcome: Outcome) -> float:
        """log(peak / limit): feasible where ≤ 0."""
        index = self._candidates.index(config)
        forecast = None if index is None else float(self._candidates.forecast.device_bytes[index])
        if outcome == Outcome.OUT_OF_MEMORY:
            ratio = math.log(forecast / self._candidates.ceiling_bytes) if forecast else 0.0
            return max(ratio, LEAST_MEMORY_VIOLATION)
        peak = result.peak_bytes or forecast or self._candidates.usable_bytes
        return math.log(peak / self._candidates.usable_bytes)


def _with(columns: Columns, config: TrainingConfig) -> Columns:
    """The table with one more row."""
    row = Columns.of([config]).values
    return Columns({field: np.append(array, row[field]) for field, array in columns.values.items()})


def _attributes(result: ProbeResult, outcome: Outcome) -> dict[str, Any]:
    speed = result.tokens_per_second
    return {
        OUTCOME: outcome.value,
        REASON: result.reason,
        PEAK: result.peak_bytes,
        SECONDS: round(result.seconds, 3),
        "phase": result.phase.value,
        "tokens_per_second_interval": [speed.low, speed.high] if speed else None,
    }


def _record(trial: FrozenTrial, config: TrainingConfig) -> TrialRecord:
    attributes = trial.user_attrs
    outcome = attributes.get(OUTCOME) if trial.state.is_finished() else None
    if trial.state.is_finished() and outcome is None:
        outcome = Outcome.INTERRUPTED  # told by somebody else, for instance in the dashboard
    return TrialRecord(
        number=trial.number,
        state=_STATES[trial.state],
        config=config,
        outcome=Outcome(outcome) if outcome else None,
        tokens_per_second=trial.value if trial.value is not None else 0.0,
        peak_bytes=attributes.get(PEAK),
        reason=attributes.get(REASON),
        seconds=attributes.get(SECONDS, 0.0),
    )


def _quiet_optuna() -> None:
    optuna.logging.set_verbosity(logging.WARNING)
    optuna.logging.disable_propagation()
