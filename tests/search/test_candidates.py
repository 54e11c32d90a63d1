import numpy as np
import pytest
from problems import GIB, MIB, make_problem

from autotune.errors import BadInput, NothingFits
from autotune.search.candidates import DOUBT
from trials.contract.config import TrainingConfig


def test_candidates_and_rejections_add_up_to_the_space(problem):
    candidates = problem.candidates
    assert len(candidates) + sum(r.count for r in candidates.rejected) == candidates.total


def test_index_is_the_inverse_of_config(problem):
    candidates = problem.candidates
    for index in range(0, len(candidates), 37):
        assert candidates.index(candidates.config(index)) == index
    assert candidates.index(TrainingConfig(sequence_length=7)) is None


def test_what_is_far_beyond_the_ceiling_is_dropped_with_its_reason():
    all_fit = make_problem(ceiling_bytes=11 * GIB).candidates
    some_fit = make_problem(ceiling_bytes=1 * GIB).candidates
    assert len(some_fit) < len(all_fit)
    assert some_fit.forecast.device_bytes.max() <= some_fit.usable_bytes * (1 + DOUBT)
    dropped = next(r for r in some_fit.rejected if r.code == "memory")
    assert dropped.count == len(all_fit) - len(some_fit)


def test_a_ceiling_below_everything_names_the_smallest_that_would_do():
    with pytest.raises(NothingFits) as raised:
        make_problem(ceiling_bytes=64 * MIB)
    needed = int(str(raised.value).split("(")[1].split(" bytes")[0])
    assert np.any(make_problem(ceiling_bytes=needed).candidates.fits)
    with pytest.raises(NothingFits):
        make_problem(ceiling_bytes=int(needed / (1 + DOUBT) * 0.99))


def test_a_space_without_a_legal_configuration_says_why():
    with pytest.raises(NothingFits, match="DeepSpeed refuses fp16 on CPU"):
        make_problem(settings={"precision": ["fp16"], "sharding": ["zero1"]})


def test_a_baseline_that_cannot_run_is_bad_input():
    with pytest.raises(BadInput, match="the baseline cannot run here: DeepSpeed refuses fp16"):
        make_problem(baseline={"sharding": "zero2", "precision": "fp16"})
