"""The Optuna study of a job: it owns the trials, and is spoken to only here."""

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial
from optuna.trial import TrialState as OptunaState

from autotune.search.candidates import Candidates, Indices
from autotune.search.cost_model import Knowledge
from autotune.search.encoding import Encoding
from autotune.search.history import TrialRecord, TrialState
from autotune.search.samplers import distributions, make_sampler, require_sampler
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig
from trials.contract.messages import ProbeResult
from trials.contract.outcome import VERDICTS, Outcome

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CONFIG, OUTCOME, REASON, PEAK, SECONDS = "config", "outcome", "reason", "peak_bytes", "seconds"
INTERVAL, EXPECTED_GAIN = "tokens_per_second_interval", "expected_gain"
REUSED_FROM = "reused_from"
"""User attributes of a trial; the dashboard and its CSV show them."""
DIMENSIONS = "dimensions"
"""User attribute of a study: its encoding. Optuna takes no other distribution than a study's first, while
another forecast, or another autotune, would leave other candidates to derive them from."""

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
        knowledge: Knowledge | None = None,
    ) -> None:
        """Create the study `name`, or take up the one there is.

        `baseline` widens the parameters where it lies outside the candidates. One that there is keeps the
        parameters that it began with; candidates that are not among them are left out. Raises BadInput for
        an unknown sampler.
        """
        _quiet_optuna()
        require_sampler(sampler)
        self._storage = storage
        self._study: Study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
        self._id = storage.get_study_id_from_name(name)
        if DIMENSIONS not in self._study.user_attrs:
            begun_with = Encoding.of(_with(candidates.columns, baseline))
            self._study.set_user_attr(DIMENSIONS, begun_with.to_dict())
        self._encoding = Encoding.from_dict(self._study.user_attrs[DIMENSIONS])
        self._space = distributions(self._encoding)
        self._records = _Records()
        self._candidates = candidates.select(self._encoding.admits(candidates.columns))
        self._sampler = make_sampler(
            sampler, self._candidates, self._encoding, seed, self._records, knowledge or Knowledge()
        )
        self._study.sampler = self._sampler

    def has(self, config: TrainingConfig) -> bool:
        """Whether a configuration is among those that the study can ask for."""
        return self._candidates.index(config) is not None

    def trials(self) -> list[TrialRecord]:
        """Every trial so far, by number."""
        return self._records(self._study.get_trials(deepcopy=False))

    def abandon_unnamed(self) -> None:
        """Fail the trials that ended, for whoever asked, before a configuration was written down."""
        for trial in self._study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,)):
            if CONFIG not in trial.user_attrs:
                self._study.tell(trial.number, state=OptunaState.FAIL, skip_if_finished=True)

    def remaining(self) -> Indices:
        """Candidates that no trial has had yet."""
        return self._sampler.remaining(self._study.get_trials(deepcopy=False))

    def expected_gain(self) -> float | None:
        """What the best of them promises, as a share of the best so far; None where nobody expects anything.

        Ask only while there is one.
        """
        return self._sampler.expected_gain(self._study.get_trials(deepcopy=False))

    def ask(self) -> Asked:
        """A new trial of a remaining candidate. Ask only while there is one."""
        gain = self.expected_gain()
        trial = self._study.ask(self._space)
        if gain is not None and math.isfinite(gain):
            trial.set_user_attr(EXPECTED_GAIN, gain)
        return self._asked(trial)

    def ask_for(self, config: TrainingConfig) -> Asked:
        """A new trial of just this configuration."""
        # Asked right after, and only this driver asks: the queue never holds more than one.
        self._study.enqueue_trial(
            self._encoding.params(config), user_attrs={CONFIG: config.model_dump(mode="json")}
        )
        return self.ask_queued()

    def ask_queued(self) -> Asked:
        """The trial that waits in the queue, where a driver died between putting and taking it."""
        return self._asked(self._study.ask(self._space))

    def tell(
        self, number: int, result: ProbeResult, *, is_last: bool = False, reused_from: str | None = None
    ) -> None:
        """Record what became of a trial; `is_last` where a failure is not going to be asked for again,
        `reused_from` the job that measured it, where this one did not. One that has ended stays as it is.
        """
        # Where the database went away just then, the trial may have ended without a word of it.
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._tell(number, result, is_last, reused_from)

    def _tell(self, number: int, result: ProbeResult, is_last: bool, reused_from: str | None) -> None:
        verdict, outcome = VERDICTS[result.outcome], result.outcome
        trial = Trial(self._study, self._storage.get_trial_id_from_study_id_trial_number(self._id, number))
        for key, value in _attributes(result).items():
            if value is not None:
                trial.set_user_attr(key, value)
        if reused_from is not None:
            trial.set_user_attr(REUSED_FROM, reused_from)
        if not (verdict.completes or is_last):
            self._study.tell(trial, state=OptunaState.FAIL, skip_if_finished=True)
            return
        trial.set_constraint("memory", self._memory_constraint(_config(trial), result))
        trial.set_constraint("runs", 0.0 if verdict.has_speed or outcome == Outcome.OUT_OF_MEMORY else 1.0)
        speed = result.tokens_per_second.median if verdict.has_speed and result.tokens_per_second else 0.0
        self._study.tell(trial, speed if math.isfinite(speed) else 0.0, skip_if_finished=True)

    def publish(self, note: str, figures: "Mapping[str, Figure]") -> None:
        """Show a note in Markdown, and plots by name, on the study's page in the Optuna dashboard."""
        from optuna_dashboard import save_note, save_plotly_graph_object

        save_note(self._study, note)
        for name, figure in figures.items():
            save_plotly_graph_object(self._study, figure, graph_object_id=name)

    def _asked(self, trial: Trial) -> Asked:
        if CONFIG in trial.user_attrs:
            return Asked(trial.number, _config(trial))
        index = self._sampler.index(trial.params)
        assert index is not None, "the sampler proposes candidates only"
        config = self._candidates.config(index)
        trial.set_user_attr(CONFIG, config.model_dump(mode="json"))
        return Asked(trial.number, config)

    def _memory_constraint(self, config: TrainingConfig, result: ProbeResult) -> float:
        """log(peak / limit): feasible where ≤ 0."""
        index = self._candidates.index(config)
        forecast = None if index is None else float(self._candidates.forecast.device_bytes[index])
        if result.outcome == Outcome.OUT_OF_MEMORY:
            ratio = math.log(forecast / self._candidates.ceiling_bytes) if forecast else 0.0
            return max(ratio, LEAST_MEMORY_VIOLATION)
        peak = result.peak_bytes or forecast or self._candidates.usable_bytes
        return math.log(peak / self._candidates.usable_bytes)


def _with(columns: Columns, config: TrainingConfig) -> Columns:
    """The table with one more row."""
    row = Columns.of([config]).values
    return Columns({field: np.append(array, row[field]) for field, array in columns.values.items()})


def _attributes(result: ProbeResult) -> dict[str, Any]:
    speed = result.tokens_per_second
    return {
        OUTCOME: result.outcome.value,
        REASON: result.reason,
        PEAK: result.peak_bytes,
        SECONDS: round(result.seconds, 3),
        "phase": result.phase.value,
        INTERVAL: [speed.low, speed.high] if speed else None,
    }


def recorded_trials(storage: BaseStorage, name: str) -> list[TrialRecord]:
    """Every trial of the study `name`, by number; none where its job has not begun."""
    _quiet_optuna()
    if study_id(storage, name) is None:
        return []
    return _Records()(optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False))


def study_id(storage: BaseStorage, name: str) -> int | None:
    """What the dashboard calls a study; None where there is none."""
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        return None


class _Records:
    """Trials of one study as records; those of ended ones are made once, for nothing changes them."""

    def __init__(self) -> None:
        self._ended: dict[int, TrialRecord] = {}

    def __call__(self, trials: list[FrozenTrial]) -> list[TrialRecord]:
        # A trial is there a moment before its configuration is.
        return [self._record_of(trial) for trial in trials if CONFIG in trial.user_attrs]

    def _record_of(self, trial: FrozenTrial) -> TrialRecord:
        if trial.number in self._ended:
            return self._ended[trial.number]
        record = _record(trial)
        if trial.state.is_finished():
            self._ended[trial.number] = record
        return record


def _config(trial: FrozenTrial | Trial) -> TrainingConfig:
    return TrainingConfig.model_validate(trial.user_attrs[CONFIG])


def _record(trial: FrozenTrial) -> TrialRecord:
    attributes = trial.user_attrs
    outcome = attributes.get(OUTCOME) if trial.state.is_finished() else None
    if trial.state.is_finished() and outcome is None:
        outcome = Outcome.INTERRUPTED  # told by somebody else, for instance in the dashboard
    outcome = Outcome(outcome) if outcome else None
    return TrialRecord(
        number=trial.number,
        state=_STATES[trial.state],
        config=_config(trial),
        outcome=outcome,
        tokens_per_second=trial.value if trial.value is not None else 0.0,
        spread=_spread(attributes.get(INTERVAL)),
        # How far a probe came that could not run to its end is no figure of its configuration.
        peak_bytes=attributes.get(PEAK) if outcome and VERDICTS[outcome].completes else None,
        reason=attributes.get(REASON),
        seconds=attributes.get(SECONDS, 0.0),
        expected_gain=attributes.get(EXPECTED_GAIN),
        reused_from=attributes.get(REUSED_FROM),
    )


def _spread(interval: tuple[float, float] | None) -> float:
    """A quarter of a 95 % interval's width is about its standard deviation."""
    if not interval or min(interval) <= 0:
        return 0.0
    low, high = interval
    return math.log(high / low) / 4


def _quiet_optuna() -> None:
    optuna.logging.set_verbosity(logging.WARNING)
    optuna.logging.disable_propagation()
