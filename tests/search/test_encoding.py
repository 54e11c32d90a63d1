import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from problems import make_problem

from autotune.search.encoding import Encoding
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig

CONFIGS = st.builds(
    TrainingConfig,
    micro_batch_size=st.integers(1, 9),
    gradient_accumulation_steps=st.integers(1, 3),
    precision=st.sampled_from(["fp32", "bf16"]),
    sharding=st.sampled_from(["ddp", "zero1", "zero2"]),
    offload=st.sampled_from(["none", "optimizer"]),
    compile=st.booleans(),
)


@given(st.lists(CONFIGS, min_size=1, max_size=20))
def test_params_and_rows_are_inverse(configs):
    columns = Columns.of(configs)
    encoding = Encoding.of(columns)
    codes = encoding.codes(columns)
    for config, row in zip(configs, codes, strict=True):
        params = encoding.params(config)
        assert np.array_equal(encoding.row(params), row)


@given(st.lists(CONFIGS, min_size=2, max_size=20))
def test_different_configurations_have_different_codes(configs):
    """The derived accumulation apart, which is no parameter."""
    unique = {c.model_copy(update={"gradient_accumulation_steps": 1}) for c in configs}
    codes = Encoding.of(Columns.of(configs)).codes(Columns.of(sorted(unique, key=repr)))
    assert len(np.unique(codes, axis=0)) == len(unique)


def test_constant_fields_are_no_parameters(problem):
    names = {p.name for p in Encoding.of(problem.candidates.columns).parameters}
    assert names == {"micro_batch_size", "precision", "activation_checkpointing", "sharding + offload"}


def test_sharding_and_offload_are_one_parameter():
    columns = make_problem(
        settings={"sharding": ["zero1", "zero3", "ddp"], "offload": ["none", "optimizer"]}
    ).candidates.columns
    joined = Encoding.of(columns).parameters[-1]
    assert "ddp" in joined.values
    assert "zero1 + optimizer" in joined.values
    assert "ddp + optimizer" not in joined.values


def test_only_gapless_counts_are_ranges():
    def micro_batches(*sizes):
        return Encoding.of(Columns.of([TrainingConfig(micro_batch_size=s) for s in sizes])).parameters[0]

    assert micro_batches(1, 2, 3).is_range
    assert not micro_batches(1, 2, 4).is_range
