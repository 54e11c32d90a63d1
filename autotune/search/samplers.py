"""Optuna samplers that only ever propose candidates: legal, unseen, and likely to fit."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from autotune.errors import BadInput, about
from autotune.search.candidates import Candidates, Indices
from autotune.search.cost_model import CostModel, Knowledge
from autotune.search.encoding import Encoding, Parameter, ParameterValue
from autotune.search.history import TrialRecord, refusing_engines
from autotune.search.strategies import Choice, Exhaustive, ForecastOrder, Random, Strategy
from trials.contract.capabilities import ENGINE_OF_SHARDING
from trials.contract.message import nearest

MAX_DRAWS = 64
"""Draws from a stock sampler before a random candidate is taken in its place."""

History = Callable[[list[FrozenTrial]], list[TrialRecord]]


def distributions(encoding: Encoding) -> dict[str, BaseDistribution]:
    """What the study declares for each parameter; ordinary distributions, so any tool of Optuna's works."""
    return {parameter.name: _distribution(parameter) for parameter in encoding.parameters}


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.is_range:
        return IntDistribution(int(parameter.values[0]), int(parameter.values[-1]))
    return CategoricalDistribution(parameter.values)


class CandidateSampler(BaseSampler):
    """Proposes one of the candidates that no trial has had yet.

    Subclasses choose which. The caller makes sure that one remains before it asks.
    """

    def __init__(self, candidates: Candidates, encoding: Encoding, history: History) -> None:
        self.candidates = candidates
        self.encoding = encoding
        self.history = history
        self._codes = encoding.codes(candidates.columns)
        self._space = distributions(encoding)

    def remaining(self, trials: list[FrozenTrial]) -> Indices:
        """Indices of the candidates without a trial, ascending; not of an engine that refuses to run."""
        history = self.history(trials)
        free = np.ones(len(self.candidates), dtype=np.bool_)
        for record in history:
            index = self.candidates.index(record.config)
            if index is not None:
                free[index] = False
        if refusing := refusing_engines(history):
            shardings = [s for s, engine in ENGINE_OF_SHARDING.items() if engine in refusing]
            free &= ~self.candidates.columns.is_in("sharding", shardings)
        return np.flatnonzero(free)

    def index(self, params: Mapping[str, Any]) -> int | None:
        """The candidate with these parameters, or None where there is none."""
        row = self.encoding.row(params)
        if row is None:
            return None
        found = np.flatnonzero((self._codes == row).all(axis=1))
        return int(found[0]) if len(found) else None

    def expected_gain(self, trials: list[FrozenTrial]) -> float | None:
        """What the best of the remaining candidates promises; None where the sampler expects nothing."""
        return None

    @abstractmethod
    def choose(self, study: Study, trial: FrozenTrial, others: list[FrozenTrial], remaining: Indices) -> int:
        """The one of `remaining` to propose, by its index among all candidates. `others`: other trials."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, ParameterValue]:
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        remaining = self.remaining(others)
        return self.encoding.params(self.candidates.config(self.choose(study, trial, others, remaining)))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise RuntimeError(f"{param_name} is no parameter of the study")


class StrategySampler(CandidateSampler):
    """Follows a strategy of ours."""

    def __init__(
        self, candidates: Candidates, encoding: Encoding, strategy: Strategy, history: History
    ) -> None:
        super().__init__(candidates, encoding, history)
        self._strategy = strategy
        self._considered: tuple[list[TrialRecord], Choice] | None = None
        """The latest history that the strategy was shown, and what it chose."""

    def expected_gain(self, trials: list[FrozenTrial]) -> float | None:
        return self._consider(self.history(trials), self.remaining(trials)).expected_gain

    def choose(self, study: Study, trial: FrozenTrial, others: list[FrozenTrial], remaining: Indices) -> int:
        return self._consider(self.history(others), remaining).index

    def _consider(self, history: list[TrialRecord], remaining: Indices) -> Choice:
        if self._considered is None or self._considered[0] != history:
            self._considered = history, self._strategy.choose(self.candidates, remaining, history)
        return self._considered[1]


class StockSampler(CandidateSampler):
    """Takes the first of some draws of a sampler of Optuna's that is a remaining candidate.

    Stock samplers know nothing of what is legal together. Where none of the draws is a candidate,
    `snap` takes the remaining one nearest to the last draw, else a random one is taken.
    """

    def __init__(
        self,
        candidates: Candidates,
        encoding: Encoding,
        history: History,
        stock: BaseSampler,
        seed: int,
        *,
        snap: bool = False,
    ) -> None:
        super().__init__(candidates, encoding, history)
        self._stock = stock
        self._snap = snap
        self._random = np.random.default_rng(seed)

    def choose(self, study: Study, trial: FrozenTrial, others: list[FrozenTrial], remaining: Indices) -> int:
        free = set(remaining.tolist())
        for _ in range(1 if self._snap else MAX_DRAWS):
            drawn = self._draw(study, trial)
            index = self.index(drawn)
            if index is not None and index in free:
                return index
        if self._snap:
            distance = (self._codes[remaining] != self.encoding.row(drawn)).sum(axis=1)
            return int(remaining[np.argmin(distance)])
        return int(self._random.choice(remaining))

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._stock.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        self._stock.after_trial(study, trial, state, values)

    def _draw(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        space = self._stock.infer_relative_search_space(study, trial)
        drawn = self._stock.sample_relative(study, trial, space)
        for name, distribution in self._space.items():
            if name not in drawn:
                drawn[name] = self._stock.sample_independent(study, trial, name, distribution)
        return drawn


Maker = Callable[[Candidates, Encoding, int, History, Knowledge], CandidateSampler]

SAMPLERS: Mapping[str, Maker] = MappingProxyType(
    {
        "cost_model": lambda c, e, seed, h, known: StrategySampler(c, e, CostModel(c, known), h),
        "forecast_order": lambda c, e, seed, h, known: StrategySampler(c, e, ForecastOrder(), h),
        "random": lambda c, e, seed, h, known: StrategySampler(c, e, Random(seed), h),
        "exhaustive": lambda c, e, seed, h, known: StrategySampler(c, e, Exhaustive(), h),
        "tpe": lambda c, e, seed, h, known: StockSampler(
            c, e, h, optuna.samplers.TPESampler(seed=seed, constant_liar=True), seed
        ),
        "gp": lambda c, e, seed, h, known: StockSampler(
            c, e, h, optuna.samplers.GPSampler(seed=seed), seed, snap=True
        ),
    }
)
"""What `--sampler` can name."""


def require_sampler(name: str) -> None:
    """Raise BadInput for a name that is none."""
    with about("sampler"):
        if name not in SAMPLERS:
            raise BadInput(f"unknown sampler {name!r}{nearest(name, list(SAMPLERS))}")


def make_sampler(
    name: str, candidates: Candidates, encoding: Encoding, seed: int, history: History, knowledge: Knowledge
) -> CandidateSampler:
    require_sampler(name)
    return SAMPLERS[name](candidates, encoding, seed, history, knowledge)
