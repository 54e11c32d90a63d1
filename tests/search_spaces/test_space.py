"""Spaces: loaded, narrowed, frozen with a job, enumerated."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from search_spaces.columns import Columns
from search_spaces.constraints import accumulation_steps, why_illegal
from search_spaces.rules import Facts
from search_spaces.space import SearchSpace
from trials.contract.config import TrainingConfig, choices
from trials.contract.message import ContractError

FACTS = Facts(
    world_size=8,
    gpus_per_node=8,
    features=frozenset({"cuda", "bf16", "fp16", "fp8"}),
    num_heads=32,
    num_kv_heads=8,
    num_layers=16,
    vocab_size=32000,
    max_positions=8192,
    model_type="llama",
)


PARTLY_LEGAL = ("single_gpu", "lora", "three_d", "long_context", "optimizers", "qat")
"""Whose options do not all go together."""


@pytest.mark.parametrize("name", sorted(set(SearchSpace.names()) - set(PARTLY_LEGAL)))
def test_a_shipped_space_has_legal_configurations_where_it_is_meant_for(name):
    space = SearchSpace.load(name)
    assert space.name == name
    assert space.description
    on_cpu = replace(FACTS, world_size=2, gpus_per_node=2, features=frozenset({"cpu", "bf16", "fp16"}))
    facts = on_cpu if name == "cpu" else replace(FACTS, world_size=space.world_size or 16)
    found = space.enumerate(facts)
    assert len(found.columns) == found.total


@pytest.mark.parametrize("name", PARTLY_LEGAL)
def test_of_the_others_a_good_part_can_be_probed_and_more_be_forecast(name):
    space = SearchSpace.load(name)
    nodes = replace(FACTS, world_size=space.world_size or 64, max_positions=None, to_probe=False)
    forecast, probed = space.enumerate(nodes), space.enumerate(replace(nodes, to_probe=True))
    assert len(forecast.columns) > forecast.total / 2
    assert forecast.total / 8 < len(probed.columns) <= len(forecast.columns)
    assert set(space.dimensions) <= set(TrainingConfig.model_fields)


def test_the_shipped_spaces_try_odd_micro_batches():
    assert set(SearchSpace.names()) == {"cpu", "zero", "fsdp", *PARTLY_LEGAL}
    for name in SearchSpace.names():
        assert 3 in SearchSpace.load(name).dimensions["micro_batch_size"]


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_a_file_is_called_after_itself_and_may_be_small(tmp_path):
    space = SearchSpace.load(
        write(tmp_path, "dimensions: {micro_batch_size: {max: 3}, compile: [true, false]}")
    )
    assert space.name == "mine"
    assert space.dimensions == {"micro_batch_size": (1, 2, 3), "compile": (True, False)}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dimensions: {precison: bf16}", "did you mean 'precision'"),
        ("dimensions: {precision: [bf16, fp61]}", "did you mean 'fp16'"),
        (
            "dimensions: {precision: [2020-01-01]}",
            "precision: '2020-01-01' is not a value of it; known are fp32",
        ),
        ("dimensions: {sequence_length: 2020-01-01}", "a whole number is needed, not '2020-01-01'"),
        ("dimensions: {sequence_length: null}", "a whole number is needed, not null"),
        ("dimension: {precision: bf16}", "did you mean 'dimensions'"),
        ("dimensions: [precision]", "mapping"),
        ("name: x", "dimensions"),
        (
            "dimensions: {micro_batch_size: {max: 3000}, sequence_length: {max: 2000}}",
            "narrow micro_batch_size",
        ),
        ("world_size: 0\ndimensions: {}", "world_size"),
        ("dimensions: {gradient_accumulation_steps: [1, 2]}", "follows from the global batch"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path, text, says):
    path = write(tmp_path, text)
    with pytest.raises(ContractError, match=says) as caught:
        SearchSpace.load(path)
    assert str(path) in str(caught.value)


def test_an_unknown_space_names_the_nearest():
    with pytest.raises(ContractError, match="did you mean 'single_gpu'"):
        SearchSpace.load("singel_gpu")


def test_settings_narrow_and_pin_any_field():
    space = SearchSpace.load("zero").narrowed({"precision": ("fp32",), "compile": (False, True)})
    assert space.dimensions["precision"] == ("fp32",)
    assert space.dimensions["compile"] == (False, True)
    assert space.dimensions["sharding"] == ("zero1", "zero2", "zero3")


def test_narrowing_to_what_no_field_has_is_refused():
    with pytest.raises(ContractError, match="did you mean 'bf16'"):
        SearchSpace.load("zero").narrowed({"precision": ("bf61",)})


def test_a_space_survives_json():
    space = SearchSpace.load("zero").narrowed({"compile": (True,), "gradient_accumulation_steps": (3,)})
    again = SearchSpace.parse(space.to_json())
    assert again == space
    assert SearchSpace.parse(space.model_dump(mode="json")) == space
    assert again.dimensions["compile"][0] is True


dimension_choices = st.fixed_dictionaries(
    {},
    optional={
        "micro_batch_size": st.lists(st.integers(1, 9), min_size=1, max_size=4),
        "sequence_length": st.lists(st.sampled_from([96, 100, 4096, 9000]), min_size=1, max_size=3),
        "precision": st.lists(st.sampled_from(choices("precision")), min_size=1),
        "sharding": st.lists(st.sampled_from(choices("sharding")), min_size=1),
        "offload": st.lists(st.sampled_from(choices("offload")), min_size=1),
        "attention": st.lists(st.sampled_from(choices("attention")), min_size=1),
        "tensor_parallel_size": st.lists(st.sampled_from([1, 2, 3, 8, 16]), min_size=1, max_size=2),
        "pipeline_parallel_size": st.lists(st.sampled_from([1, 2, 32]), min_size=1, max_size=2),
        "pipeline_schedule": st.lists(st.sampled_from(choices("pipeline_schedule")), min_size=1),
        "context_parallel_size": st.lists(st.sampled_from([1, 2]), min_size=1, max_size=2),
    },
)
facts = st.builds(
    replace,
    st.just(FACTS),
    world_size=st.sampled_from([1, 2, 8, 16]),
    max_positions=st.sampled_from([None, 4096]),
    model_type=st.sampled_from(["llama", "gemma2"]),
    global_batch_size=st.sampled_from([None, 16, 17]),
    features=st.sampled_from([frozenset({"cpu", "bf16", "fp16"}), frozenset({"cuda", "fp16"})]),
    to_probe=st.booleans(),
)


def one_by_one(space: SearchSpace, given_facts: Facts) -> Iterator[TrainingConfig]:
    """The product of a space, without columns."""
    default = {"attention": "eager"} if given_facts.model_type == "gemma2" else {}
    for values in itertools.product(*space.dimensions.values()):
        config = TrainingConfig(**default | dict(zip(space.dimensions, values, strict=True)))
        (steps,) = accumulation_steps(Columns.of([config]), given_facts)
        yield config.model_copy(update={"gradient_accumulation_steps": int(steps)})


@settings(deadline=None)
@given(dimension_choices, facts)
def test_enumeration_agrees_with_checking_one_by_one(chosen, given_facts):
    space = SearchSpace.parse({"name": "drawn", "dimensions": chosen})
    assume(math.prod(map(len, space.dimensions.values())) <= 200)
    every = list(one_by_one(space, given_facts))
    reasons = [why_illegal(config, given_facts) for config in every]

    found = space.enumerate(given_facts)
    assert found.total == len(every)
    assert set(found.columns.configs()) == {
        c for c, reason in zip(every, reasons, strict=True) if reason is None
    }
    assert len(found.columns) == reasons.count(None)
    assert sum(rejection.count for rejection in found.rejected) == found.total - len(found.columns)
    assert all(rejection.count > 0 for rejection in found.rejected)


def test_accumulation_comes_nearest_to_the_global_batch():
    space = SearchSpace.parse({"name": "s", "dimensions": {"micro_batch_size": [1, 3, 5, 8]}})
    found = space.enumerate(replace(FACTS, global_batch_size=64))
    batches = {c.micro_batch_size: c.gradient_accumulation_steps for c in found.columns.configs()}
    # 3 × 3 × 8 = 72 is 12.5 % off; 5 × 2 × 8 = 80 is 25 % off.
    assert batches == {1: 8, 8: 1}
    (rejection,) = found.rejected
    assert rejection.code == "global_batch_size"
    assert rejection.count == 2
    assert "64" in rejection.reason
    assert "3, 5" in rejection.reason


def test_accumulation_is_rounded_to_the_nearer_count():
    # 63 / 8 = 7.9: eight steps are 1.6 % off, seven would be 11 %.
    (config,) = (
        SearchSpace(name="s", dimensions={}).enumerate(replace(FACTS, global_batch_size=63)).columns.configs()
    )
    assert config.gradient_accumulation_steps == 8


def test_without_a_global_batch_a_pipeline_gets_four_microbatches_per_stage():
    space = SearchSpace.parse({"name": "s", "dimensions": {"pipeline_parallel_size": [1, 2]}})
    found = space.enumerate(replace(FACTS, to_probe=False))
    assert [c.gradient_accumulation_steps for c in found.columns.configs()] == [1, 8]


def test_a_pinned_accumulation_is_taken_as_it_is():
    space = SearchSpace.parse({"name": "s", "dimensions": {"gradient_accumulation_steps": 7}})
    found = space.enumerate(replace(FACTS, global_batch_size=64))
    assert [c.gradient_accumulation_steps for c in found.columns.configs()] == [7]


def test_a_space_for_one_process_is_not_enumerated_for_eight():
    with pytest.raises(ContractError, match="'single_gpu' is for 1 rank"):
        SearchSpace.load("single_gpu").enumerate(FACTS)


def test_a_model_without_sdpa_gets_eager_attention_unless_it_is_asked_for():
    gemma = replace(FACTS, model_type="gemma2")
    (config,) = SearchSpace(name="s", dimensions={}).enumerate(gemma).columns.configs()
    assert config.attention == "eager"
    (rejection,) = SearchSpace(name="s", dimensions={"attention": "sdpa"}).enumerate(gemma).rejected
    assert "attention=eager" in rejection.reason
