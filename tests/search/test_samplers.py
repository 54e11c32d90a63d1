import optuna
import pytest
from problems import GIB, make_problem

from autotune.errors import BadInput
from autotune.search.history import TrialState
from autotune.search.samplers import SAMPLERS
from autotune.search.study import SearchStudy
from trials.contract.config import TrainingConfig
from trials.contract.messages import Estimate, ProbeResult
from trials.contract.outcome import Outcome, Phase

SMALL = {"micro_batch_size": [1, 2, 3], "precision": ["fp32", "bf16"], "sharding": ["ddp", "zero1", "fsdp"]}


def study_of(problem, sampler, storage=None, baseline=None, seed=0):
    storage = storage or optuna.storages.InMemoryStorage()
    return SearchStudy(storage, "study", problem.candidates, baseline or problem.baseline, sampler, seed)


def measured(speed, peak=GIB):
    return ProbeResult(
        probe_id="p",
        outcome=Outcome.MEASURED,
        phase=Phase.DONE,
        tokens_per_second=Estimate(median=speed, low=speed, high=speed),
        peak_bytes=peak,
    )


OUT_OF_MEMORY = ProbeResult(
    probe_id="p", outcome=Outcome.OUT_OF_MEMORY, phase=Phase.WARM_UP, peak_bytes=5 * GIB
)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_candidate_is_proposed_exactly_once(sampler):
    problem = make_problem(settings=SMALL)
    study = study_of(problem, sampler)
    count = min(len(problem.candidates), 14 if sampler == "gp" else 1000)
    asked = []
    for number in range(count):
        proposal = study.ask()
        asked.append(problem.candidates.index(proposal.config))
        if number % 4 == 3:
            study.tell(proposal.number, OUT_OF_MEMORY)
        else:
            study.tell(proposal.number, measured(100.0 + number))
    assert None not in asked
    assert len(set(asked)) == count
    if count == len(problem.candidates):
        assert len(study.remaining()) == 0


def test_running_trials_are_not_proposed_again():
    problem = make_problem(settings=SMALL)
    study = study_of(problem, "forecast_order")
    assert len({study.ask().config for _ in range(10)}) == 10


def test_forecast_order_begins_with_the_fastest_that_fits(problem):
    candidates = problem.candidates
    first = study_of(problem, "forecast_order").ask().config
    index = candidates.index(first)
    assert candidates.fits[index]
    best = candidates.forecast.tokens_per_second[candidates.fits].max()
    assert candidates.forecast.tokens_per_second[index] > 0.9 * best


def test_forecast_order_learns_that_memory_was_underestimated():
    """After measurements that are half as large again as forecast, what it asks for next is smaller."""

    def next_peak(factor):
        problem = make_problem(ceiling_bytes=2 * GIB)
        study, candidates = study_of(problem, "forecast_order"), problem.candidates
        for _ in range(3):
            asked = study.ask()
            forecast = candidates.forecast.device_bytes[candidates.index(asked.config)]
            study.tell(asked.number, measured(100.0, int(forecast * factor)))
        return candidates.forecast.device_bytes[candidates.index(study.ask().config)]

    assert next_peak(1.5) < next_peak(1.0)


def test_a_seed_decides_a_random_search_and_a_resumed_one_goes_on_as_it_would_have():
    problem = make_problem(settings=SMALL)
    whole = study_of(problem, "random", seed=7)
    straight = [whole.ask().config for _ in range(6)]
    storage = optuna.storages.InMemoryStorage()
    halves = [study_of(problem, "random", storage, seed=7).ask().config for _ in range(6)]
    assert halves == straight
    assert [study_of(problem, "random", seed=8).ask().config for _ in range(1)] != straight[:1]


def test_unknown_sampler_names_the_nearest(problem):
    with pytest.raises(BadInput, match="did you mean 'forecast_order'"):
        study_of(problem, "forcast_order")


def test_constraints_and_values_follow_the_outcome_table(problem):
    storage = optuna.storages.InMemoryStorage()
    study = study_of(problem, "exhaustive", storage)
    usable = problem.candidates.usable_bytes
    cases = [
        (measured(10.0, usable // 2), False),
        (measured(20.0, usable * 2), False),
        (OUT_OF_MEMORY, False),
        (ProbeResult(probe_id="p", outcome=Outcome.NON_FINITE, phase=Phase.MEASURE), False),
        (ProbeResult(probe_id="p", outcome=Outcome.CRASHED, phase=Phase.BUILD), True),
        (ProbeResult(probe_id="p", outcome=Outcome.CRASHED, phase=Phase.BUILD), False),
        (ProbeResult(probe_id="p", outcome=Outcome.INVALID, phase=Phase.BUILD), False),
    ]
    for result, is_last in cases:
        study.tell(study.ask().number, result, is_last=is_last)
    trials = optuna.load_study(study_name="study", storage=storage).get_trials()
    fits, over, out, non_finite, last_crash, crashed, invalid = trials
    assert fits.value == 10.0
    assert fits.constraints["memory"] < 0
    assert fits.constraints["runs"] <= 0
    assert over.value == 20.0
    assert over.constraints["memory"] > 0
    assert (out.value, out.state.name) == (0.0, "COMPLETE")
    assert out.constraints["memory"] >= 0.02
    assert out.constraints["runs"] <= 0
    for trial in (non_finite, last_crash):
        assert (trial.value, trial.constraints["runs"]) == (0.0, 1.0)
        assert "memory" in trial.constraints
    assert last_crash.user_attrs["outcome"] == "crashed"
    assert crashed.state.name == invalid.state.name == "FAIL"
    assert optuna.load_study(study_name="study", storage=storage).best_trial.number == fits.number


def test_a_baseline_outside_the_candidates_can_be_asked_for():
    problem = make_problem(settings=SMALL)
    baseline = TrainingConfig(micro_batch_size=40, sequence_length=128, sharding="zero2")
    study = study_of(problem, "forecast_order", baseline=baseline)
    assert study.ask_for(baseline).config == baseline
    assert problem.candidates.index(study.ask().config) is not None
    assert study.trials()[0].state == TrialState.RUNNING


def test_a_driver_that_died_between_asking_and_writing_leaves_nothing_behind():
    problem = make_problem(settings=SMALL)
    storage = optuna.storages.InMemoryStorage()
    study = study_of(problem, "exhaustive", storage)
    optuna.load_study(study_name="study", storage=storage).ask()  # no parameter was suggested yet
    study.abandon_unnamed()
    assert study.trials() == []
    assert len(study.remaining()) == len(problem.candidates)
