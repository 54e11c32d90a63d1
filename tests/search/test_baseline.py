import pytest
from problems import GIB, make_problem

from autotune.errors import BadInput
from autotune.search.baseline import default_baseline


def test_plenty_of_memory_means_ddp_in_bf16_with_the_largest_power_of_two(problem):
    chosen = default_baseline(make_problem(ceiling_bytes=11 * GIB).candidates)
    assert (chosen.sharding, chosen.precision, chosen.activation_checkpointing) == ("ddp", "bf16", "none")
    assert chosen.micro_batch_size == 16


def test_a_tight_ceiling_shrinks_the_micro_batch_before_anything_else():
    candidates = make_problem(ceiling_bytes=int(1.6 * GIB)).candidates
    chosen = default_baseline(candidates)
    assert chosen.sharding == "ddp"
    assert chosen.micro_batch_size in (1, 2, 4, 8)
    index = candidates.index(chosen)
    assert index is not None
    assert candidates.fits[index]


def test_checkpointing_is_given_up_only_where_nothing_fits_without():
    settings = {"micro_batch_size": [16], "sharding": ["ddp"], "precision": ["bf16"]}
    roomy = default_baseline(make_problem(ceiling_bytes=8 * GIB, settings=settings).candidates)
    assert roomy.activation_checkpointing == "none"
    peaks = make_problem(ceiling_bytes=8 * GIB, settings=settings).candidates.forecast.device_bytes
    between = int((peaks.min() + peaks.max()) / 2 / 0.95)
    tight = default_baseline(make_problem(ceiling_bytes=between, settings=settings).candidates)
    assert tight.activation_checkpointing == "full"


def test_the_space_without_bf16_gives_fp32():
    chosen = default_baseline(make_problem(settings={"precision": ["fp32", "bf16_pure"]}).candidates)
    assert chosen.precision == "fp32"


def test_the_longest_sequence_is_the_product():
    chosen = default_baseline(make_problem(settings={"sequence_length": [64, 128]}).candidates)
    assert chosen.sequence_length == 128


def test_a_users_baseline_is_accumulated_to_the_global_batch_that_is_asked_for():
    problem = make_problem(baseline={"micro_batch_size": 3}, global_batch_size=24)
    assert problem.baseline.global_batch_size(world_size=2) == 24


def test_what_a_user_leaves_out_of_the_baseline_is_as_usual_in_this_space():
    usual = make_problem().baseline
    own = make_problem(baseline={"micro_batch_size": 3, "sharding": "fsdp"}).baseline
    assert own == usual.model_copy(update={"micro_batch_size": 3, "sharding": "fsdp"})


def test_a_baseline_at_another_length_is_bad_input():
    with pytest.raises(BadInput, match="--set sequence_length=64 searches at the baseline's"):
        make_problem(baseline={"sequence_length": 64})


def test_a_users_baseline_may_have_another_global_batch():
    present = {"micro_batch_size": 7, "gradient_accumulation_steps": 5}
    assert make_problem(baseline=present, global_batch_size=24).baseline.gradient_accumulation_steps == 5


def test_a_baseline_that_cannot_run_here_is_bad_input():
    with pytest.raises(BadInput, match=r"baseline cannot run here: .*flash"):
        make_problem(baseline={"attention": "flash"})
