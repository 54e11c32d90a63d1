"""What the engines can run, and what they cannot, each with its reason."""

import itertools
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairs import covering, legal, pairs
from probes import CPU

from trials.contract.capabilities import ENGINE_OF_SHARDING, REFUSALS, Feature, Refusal, refusal, refusals
from trials.contract.config import Sharding, TrainingConfig, choices

FEATURES: list[frozenset[Feature]] = [
    CPU,
    frozenset({"cuda", "fp16"}),
    frozenset({"cuda", "fp16", "bf16"}),
    frozenset({"cuda", "fp16", "bf16", "fp8"}),
]
"""CPU, and GPUs before Ampere, before Ada and since."""
TRAINS_ANYWHERE = TrainingConfig(precision="fp32")


def named(row: Refusal) -> str:
    named = (f"{field}={'|'.join(map(str, values))}" for field, values in row.values.items())
    return "-".join([*named, *row.parallel])


def combinations(row: Refusal) -> list[dict[str, Any]]:
    """Every combination of values that the row is about."""
    return [dict(zip(row.values, values, strict=True)) for values in itertools.product(*row.values.values())]


def test_every_sharding_has_its_engine() -> None:
    assert set(ENGINE_OF_SHARDING) == set(get_args(Sharding))


@pytest.mark.parametrize("features", FEATURES, ids=lambda features: "+".join(sorted(features)))
def test_plain_training_runs_on_every_device(features: frozenset[Feature]) -> None:
    assert refusal(TRAINS_ANYWHERE, features) is None


@pytest.mark.parametrize("row", REFUSALS, ids=named)
class TestEveryRow:
    def test_names_values_that_exist(self, row: Refusal) -> None:
        for field, values in row.values.items():
            assert set(values) <= set(choices(field) or ())

    def test_gives_a_reason_in_words(self, row: Refusal) -> None:
        assert len(row.reason.split()) >= 4

    def test_refuses_what_it_is_about_on_some_device(self, row: Refusal) -> None:
        on = [features for features in FEATURES if row.applies_to(features)]
        assert on
        split = dict.fromkeys(row.parallel, 2)
        for features, fields in itertools.product(on, combinations(row)):
            assert refusal(TrainingConfig(**fields, **split), features) is not None

    def test_leaves_alone_what_lacks_one_of_its_values(self, row: Refusal) -> None:
        for field in row.values:
            others = combinations(row)[0] | {field: _another(field, row.values[field])}
            assert not row.matches(TrainingConfig(**others, **dict.fromkeys(row.parallel, 2)))

    def test_leaves_alone_what_is_not_split(self, row: Refusal) -> None:
        for size in row.parallel:
            split = dict.fromkeys(row.parallel, 2) | {size: 1}
            assert not row.matches(TrainingConfig(**combinations(row)[0], **split))


def _another(field: str, values: Any) -> Any:
    return next(value for value in choices(field) or () if value not in values)


@pytest.mark.parametrize(
    ("fields", "features", "reason"),
    [
        ({"precision": "bf16"}, {"cuda", "fp16"}, "this GPU has no bf16 arithmetic"),
        ({"precision": "fp8"}, {"cuda", "bf16"}, "this GPU has no fp8 matmuls"),
        ({"precision": "fp16", "sharding": "zero2"}, CPU, "DeepSpeed refuses fp16 on CPU"),
        ({"attention": "flash"}, CPU, "flash attention runs on CUDA only"),
        ({"offload": "optimizer"}, CPU, "DDP keeps every state on the device; offload needs ZeRO or FSDP"),
        ({"base_weights": "int4"}, CPU, "quantised base weights are frozen, so they need adaptation=lora"),
        (
            {"tensor_parallel_size": 2, "attention": "eager"},
            CPU,
            "no engine masks eager attention under tensor parallelism yet; use attention=sdpa",
        ),
        (
            {"tensor_parallel_size": 2, "sharding": "zero1"},
            CPU,
            "no engine probes ZeRO with tensor parallelism yet",
        ),
    ],
)
def test_the_reason_says_what_stands_in_the_way(
    fields: dict[str, Any], features: set[Feature], reason: str
) -> None:
    assert refusal(TrainingConfig(**fields), frozenset(features)) == reason


def test_a_gpu_may_do_what_a_cpu_may_not() -> None:
    config = TrainingConfig(precision="fp16", sharding="zero2")
    assert refusal(config, CPU) is not None
    assert refusal(config, frozenset({"cuda", "fp16"})) is None


def test_a_forecast_may_be_made_of_what_no_probe_runs_yet() -> None:
    assert refusals(CPU, to_probe=False) == tuple(row for row in refusals(CPU) if not row.unprobed)


LEGAL = legal(CPU)


@given(st.fixed_dictionaries({field: st.sampled_from(choices(field)) for field in LEGAL[0]}))
def test_what_is_not_refused_is_legal(fields: dict[str, Any]) -> None:
    assert (refusal(TrainingConfig(**fields), CPU) is None) == (fields in LEGAL)


def test_a_cover_has_every_pair_of_options_that_is_legal() -> None:
    trained = set().union(*map(pairs, covering(LEGAL)))
    assert set().union(*map(pairs, LEGAL)) <= trained
