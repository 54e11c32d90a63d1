"""The sampler on problems whose truth is known."""

from dataclasses import replace

import numpy as np
import optuna
import pytest
from problems import GIB, MIB, make_problem

from autotune.forecast.calibration import Calibration, Observation
from autotune.search.cost_model import CostModel, Knowledge, expected_improvement
from autotune.search.history import TrialRecord, TrialState
from autotune.search.stopping import has_settled
from autotune.search.study import SearchStudy
from search_spaces.columns import FIELDS
from trials.contract.config import TrainingConfig
from trials.contract.messages import Estimate, ProbeResult
from trials.contract.outcome import Outcome, Phase

SPACE = {
    "micro_batch_size": [1, 2, 3, 4, 6, 8],
    "precision": ["fp32", "bf16", "bf16_pure"],
    "sharding": ["ddp", "zero1", "zero2", "fsdp"],
    "activation_checkpointing": ["none", "full"],
}


class World:
    """A machine on which a forecast is off by a factor for each level of each factor."""

    def __init__(self, problem, off=0.0, seed=0, ceiling_bytes=None):
        rng = np.random.default_rng(seed)
        self.candidates = problem.candidates
        if ceiling_bytes is not None:
            usable_bytes = int(ceiling_bytes * 0.95)
            self.candidates = replace(
                problem.candidates, ceiling_bytes=ceiling_bytes, usable_bytes=usable_bytes, _found={}
            )
        forecast = problem.candidates.forecast
        speed, memory = np.zeros(len(self.candidates)), np.zeros(len(self.candidates))
        for name in FIELDS:
            levels, codes = np.unique(self.candidates.columns.values[name], return_inverse=True)
            if len(levels) > 1:
                speed += rng.normal(0, off, len(levels))[codes]
                memory += rng.normal(0, off / 4, len(levels))[codes]
        self.speed = forecast.tokens_per_second * np.exp(speed)
        self.peak = forecast.reserved_bytes * np.exp(memory) + forecast.parts["fixed"]

    @property
    def best(self) -> float:
        return float(self.speed[self.peak <= self.candidates.usable_bytes].max())

    def result(self, index: int) -> ProbeResult:
        if self.peak[index] > self.candidates.ceiling_bytes:
            return ProbeResult(probe_id="p", outcome=Outcome.OUT_OF_MEMORY, phase=Phase.WARM_UP, seconds=3.0)
        speed = float(self.speed[index])
        return ProbeResult(
            probe_id="p",
            outcome=Outcome.MEASURED,
            phase=Phase.DONE,
            tokens_per_second=Estimate(median=speed, low=speed * 0.98, high=speed * 1.02),
            peak_bytes=int(self.peak[index]),
            seconds=5.0,
        )

    def search(self, baseline: TrainingConfig, count: int, sampler: str = "cost_model") -> SearchStudy:
        study = SearchStudy(
            optuna.storages.InMemoryStorage(), "s", self.candidates, baseline, sampler, 0, Knowledge()
        )
        for _ in range(count):
            if not len(study.remaining()):
                break
            asked = study.ask()
            study.tell(asked.number, self.result(self.candidates.index(asked.config)))
        return study

    def found(self, study: SearchStudy) -> float:
        fitting = [
            trial.tokens_per_second
            for trial in study.trials()
            if trial.outcome == Outcome.MEASURED and trial.peak_bytes <= self.candidates.usable_bytes
        ]
        return max(fitting, default=0.0) / self.best


@pytest.fixture(scope="module")
def problem():
    return make_problem(settings=SPACE)


def test_a_right_forecast_is_followed(problem):
    world = World(problem)
    assert world.found(world.search(problem.baseline, 1)) > 0.99


def test_a_wrong_forecast_is_recovered_from(problem):
    """Each level 30 % off: within sixteen probes of 144 candidates."""
    found, failed = [], 0
    for seed in range(6):
        world = World(problem, off=0.3, seed=seed, ceiling_bytes=900 * MIB)
        study = world.search(problem.baseline, 16)
        found.append(world.found(study))
        failed += sum(trial.outcome == Outcome.OUT_OF_MEMORY for trial in study.trials())
    assert np.mean(found) > 0.97
    assert failed <= 0.15 * 6 * 16


def test_it_settles_once_nothing_promises_anything(problem):
    world = World(problem, off=0.1, seed=1)
    study = world.search(problem.baseline, 30)
    gains = [trial.expected_gain for trial in study.trials()]
    assert gains[0] > 0.5  # there is nothing yet to be better than
    assert has_settled(study.trials(), study.expected_gain(), 0.01)
    assert not has_settled(study.trials(), study.expected_gain(), 0.0)
    assert not has_settled(study.trials(), None, 0.01)


def test_what_runs_is_not_proposed_again_and_others_are(problem):
    world = World(problem)
    study = world.search(problem.baseline, 4)
    running = {study.ask().config for _ in range(6)}
    assert len(running) == 6


def test_each_length_is_searched_for_itself():
    problem = make_problem(settings={**SPACE, "sequence_length": [128, 256, 512]})
    world = World(problem)
    study = world.search(problem.baseline, 9)
    lengths = [trial.config.sequence_length for trial in study.trials()]
    assert set(lengths[:4]) == {128, 256, 512}
    for length in (128, 256, 512):
        rows = problem.candidates.columns.count("sequence_length") == length
        best = max(t.tokens_per_second for t in study.trials() if t.config.sequence_length == length)
        assert best > 0.97 * world.speed[rows & problem.candidates.fits].max()


def test_an_out_of_memory_is_a_lesson_about_memory_alone(problem):
    model = CostModel(problem.candidates, Knowledge())
    index = int(np.argmax(problem.candidates.forecast.device_bytes))
    failed = TrialRecord(
        0, TrialState.COMPLETE, problem.candidates.config(index), Outcome.OUT_OF_MEMORY, seconds=3.0
    )
    before, after = model.beliefs([]), model.beliefs([failed])
    np.testing.assert_array_equal(before.log_speed, after.log_speed)
    assert after.out_of_memory[index] > 0.4
    assert (after.fits <= before.fits + 1e-9).all()


def test_what_earlier_jobs_measured_moves_the_first_proposal(problem):
    """FSDP was half as fast as forecast in another job on the same hardware."""
    seen = [
        Observation("other", 2, config, speed, 0.03, 0.0, 0.003, 0.0)
        for size in (1, 2, 4, 8)
        for sharding, speed in (("fsdp", -0.7), ("ddp", 0.0), ("zero1", 0.0), ("zero2", 0.0))
        for config in [TrainingConfig(micro_batch_size=size, sharding=sharding, sequence_length=128)]
    ]
    plain = CostModel(problem.candidates, Knowledge(world_size=2)).beliefs([])
    told = CostModel(problem.candidates, Knowledge(Calibration(seen), "mine", 2)).beliefs([])
    fsdp = problem.candidates.columns.is_in("sharding", ["fsdp"])
    moved = told.log_speed - plain.log_speed
    assert moved[fsdp].mean() < moved[~fsdp].mean() - 0.3


def test_expected_improvement_is_the_mean_of_what_is_above():
    rng = np.random.default_rng(0)
    for ahead, deviation in ((-0.2, 0.1), (0.0, 0.2), (0.3, 0.05)):
        drawn = np.exp(rng.normal(ahead, deviation, 400_000)) - 1
        expected = expected_improvement(np.array([ahead]), np.array([deviation]))[0]
        assert expected == pytest.approx(np.maximum(drawn, 0).mean(), rel=0.05, abs=1e-4)


def test_nothing_fits_and_it_says_so():
    """Under a ceiling that nothing is under, the least risky is tried, and little is promised."""
    problem = make_problem(settings=SPACE)
    world = World(problem, ceiling_bytes=int(GIB / 4))
    study = world.search(problem.baseline, 6)
    assert {trial.outcome for trial in study.trials()} == {Outcome.OUT_OF_MEMORY}
    assert study.expected_gain() < 0.01


def test_what_does_not_train_is_not_proposed_over_and_over():
    """Every bf16_pure has losses that are not finite, and the forecast likes them most."""
    world = World(make_problem(settings=SPACE))
    study = world.search(world.candidates.config(0), 0)
    tried = []
    for _ in range(10):
        asked = study.ask()
        if asked.config.precision == "bf16_pure":
            failed = ProbeResult(probe_id="p", outcome=Outcome.NON_FINITE, phase=Phase.WARM_UP, seconds=3.0)
            study.tell(asked.number, failed)
        else:
            study.tell(asked.number, world.result(world.candidates.index(asked.config)))
        tried.append(asked.config.precision)
    assert tried[0] == "bf16_pure"
    assert tried.count("bf16_pure") <= 3


def test_what_is_too_risky_now_still_counts_as_a_promise(monkeypatch):
    """Else a search would end because it may not look where the gain is."""
    world = World(make_problem(settings=SPACE), ceiling_bytes=900 * MIB)
    candidates = world.candidates
    model = CostModel(candidates, Knowledge())
    row = int(np.argmin(world.peak))
    seen = TrialRecord(
        0, TrialState.COMPLETE, candidates.config(row), Outcome.MEASURED, float(world.speed[row]), 0.01,
        int(world.peak[row]), None, 5.0,
    )  # fmt: skip
    remaining = np.setdiff1d(np.arange(len(candidates)), [row])
    beliefs = model.beliefs([seen])
    worth = model._gain([seen], beliefs)[0] * beliefs.fits
    monkeypatch.setattr(model, "_risk", lambda *_: 0.0)
    choice = model.choose(candidates, remaining, [seen])
    assert worth[choice.index] < 0.9 * worth[remaining].max()
    assert choice.expected_gain == pytest.approx(worth[remaining].max())
