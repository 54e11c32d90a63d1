import json

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


def test_a_written_encoding_is_read_back_with_every_choice_in_its_place():
    configs = [TrainingConfig(sharding=s, micro_batch_size=m) for s in ("zero1", "ddp") for m in (1, 2, 4)]
    encoding = Encoding.of(Columns.of(configs))
    shuffled = {name: choices[::-1] for name, choices in json.loads(json.dumps(encoding.to_dict())).items()}
    for saved in (encoding.to_dict(), shuffled):
        again = Encoding.from_dict(saved)
        assert again.to_dict() == saved
        assert [again.params(config) for config in configs] == [encoding.params(config) for config in configs]


def test_an_encoding_admits_what_it_has_a_code_for():
    encoding = Encoding.of(Columns.of([TrainingConfig(micro_batch_size=size) for size in (1, 2)]))
    others = [
        TrainingConfig(micro_batch_size=2),
        TrainingConfig(micro_batch_size=3),
        TrainingConfig(micro_batch_size=2, precision="fp16"),
    ]
    assert encoding.admits(Columns.of(others)).tolist() == [True, False, False]
