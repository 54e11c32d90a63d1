"""Messages: JSON both ways, and what is refused, each in a sentence that names what is wrong."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes import TINY, factory_model, probe

from trials.contract.config import TrainingConfig, choices
from trials.contract.constants import EngineConstants, engine_constants
from trials.contract.message import SHOWN_CHARACTERS, ContractError, Message, nearest, shown
from trials.contract.messages import (
    Estimate,
    MeasurementPlan,
    MemoryPeaks,
    ModelSpec,
    NodeShare,
    ProbeRequest,
    ProbeResult,
    RankReport,
    Versions,
)
from trials.contract.outcome import Outcome, Phase

REQUEST = probe().model_dump(mode="json")
LARGEST_COUNT = 2**24

counts = st.integers(min_value=1, max_value=LARGEST_COUNT)
sizes = st.integers(min_value=0, max_value=2**63)
figures = st.floats(allow_nan=False)
words = st.none() | st.text(max_size=30)
configs = st.builds(
    TrainingConfig,
    **{
        field: st.sampled_from(known) if (known := choices(field)) else counts
        for field in TrainingConfig.model_fields
    },
)
peaks = st.builds(MemoryPeaks, device_bytes=sizes, allocated_bytes=st.none() | sizes)
versions = st.builds(
    Versions, device_name=st.text(), driver=words, python=st.text(), torch=st.text(), protocol=counts
)
specs = st.sampled_from([*TINY.values(), factory_model("a:b")])
world = st.tuples(counts, st.integers(min_value=1, max_value=64)).map(
    lambda pair: {"world_size": pair[0] // pair[1] * pair[1] or pair[1], "num_nodes": pair[1]}
)
plans = st.builds(MeasurementPlan, max_steps=counts, max_measure_s=st.floats(0.1, 1e6))
requests = world.flatmap(
    lambda fields: st.builds(
        ProbeRequest,
        probe_id=st.from_regex(r"[A-Za-z0-9._-]{1,80}", fullmatch=True),
        model=specs,
        config=configs,
        ceiling_bytes=st.none() | st.integers(min_value=1),
        measurement=plans,
        **{name: st.just(value) for name, value in fields.items()},
    )
)
facts = {
    "outcome": st.sampled_from(Outcome),
    "phase": st.sampled_from(Phase),
    "reason": words,
    "detail": words,
    "step_s": st.lists(figures).map(tuple),
    "losses": st.lists(figures).map(tuple),
    "gradient_norms": st.lists(figures).map(tuple),
    "constants": st.none() | st.just(engine_constants(1)),
    "versions": st.none() | versions,
    "phase_s": st.dictionaries(st.sampled_from(Phase), figures),
}
reports = st.builds(RankReport, rank=sizes, memory=st.none() | peaks, lost_peer=st.booleans(), **facts)
estimates = st.builds(Estimate, median=figures, low=figures, high=figures)
results = st.builds(
    ProbeResult, tokens_per_second=st.none() | estimates, memory=st.lists(peaks).map(tuple), **facts
)


@given(st.one_of(configs, requests, reports, results))
def test_json_there_and_back_changes_nothing(message: Message) -> None:
    assert type(message).parse(message.to_json()) == message
    assert type(message).parse(message.model_dump(mode="json")) == message


def test_numbers_that_are_not_finite_survive() -> None:
    sent = RankReport(
        rank=0, outcome=Outcome.NON_FINITE, phase=Phase.MEASURE, losses=(math.inf, -math.inf, math.nan)
    )
    received = RankReport.parse(sent.to_json())
    assert received.losses[:2] == (math.inf, -math.inf)
    assert math.isnan(received.losses[2])


def test_a_part_of_a_configuration_is_one_too() -> None:
    assert TrainingConfig.parse('{"micro_batch_size": 6}') == TrainingConfig(micro_batch_size=6)
    assert TrainingConfig.parse("{}") == TrainingConfig()


def test_messages_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TrainingConfig().micro_batch_size = 2


@pytest.mark.parametrize(
    ("message", "text", "sentence"),
    [
        # An unknown key names itself and the nearest right one.
        (
            TrainingConfig,
            {"micro_batchsize": 1},
            "unknown field 'micro_batchsize'; did you mean 'micro_batch_size'?",
        ),
        (TrainingConfig, {"seq_length": 1}, "unknown field 'seq_length'; did you mean 'sequence_length'?"),
        (EngineConstants, {"zzz": 1}, "unknown field 'zzz'; known are deepspeed_bucket_elements, "),
        (ProbeRequest, REQUEST | {"deadline": 1}, "unknown field 'deadline'; did you mean 'deadline_s'?"),
        (
            ProbeRequest,
            REQUEST | {"config": {"presicion": "bf16"}},
            "config: unknown field 'presicion'; did you mean 'precision'?",
        ),
        # An unknown value too.
        (
            TrainingConfig,
            {"precision": "bf61"},
            "precision: 'bf61' is not a value of it; did you mean 'bf16'?",
        ),
        (TrainingConfig, {"sharding": 7}, "sharding: 7 is not a value of it; known are ddp, zero1, zero2, "),
        (TrainingConfig, {"compile": "perhaps"}, "compile: input should be a valid boolean, "),
        # Bounds.
        (
            TrainingConfig,
            {"micro_batch_size": 0},
            "micro_batch_size: input should be greater than or equal to 1, not 0",
        ),
        (
            TrainingConfig,
            {"sequence_length": -5},
            "sequence_length: input should be greater than or equal to 1, not -5",
        ),
        (TrainingConfig, {"sequence_length": 1.5}, "sequence_length: input should be a valid integer"),
        (
            TrainingConfig,
            {"sequence_length": 10**30},
            "sequence_length: input should be less than or equal to 16777216",
        ),
        (
            TrainingConfig,
            '{"sequence_length": 1e999}',
            "sequence_length: input should be a finite number, not inf",
        ),
        (
            TrainingConfig,
            '{"sequence_length": NaN}',
            "sequence_length: input should be a finite number, not nan",
        ),
        (
            TrainingConfig,
            {"sequence_length": None},
            "sequence_length: input should be a valid integer, not null",
        ),
        (ProbeRequest, REQUEST | {"deadline_s": 0}, "deadline_s: input should be greater than 0, not 0"),
        (
            ProbeRequest,
            REQUEST | {"deadline_s": math.inf},
            "deadline_s: input should be less than or equal to 604800",
        ),
        (ProbeRequest, REQUEST | {"deadline_s": math.nan}, "deadline_s: input should be "),
        (
            ProbeRequest,
            REQUEST | {"ceiling_bytes": 0},
            "ceiling_bytes: input should be greater than 0, not 0",
        ),
        (ProbeRequest, REQUEST | {"seed": -1}, "seed: input should be greater than or equal to 0, not -1"),
        (ProbeRequest, REQUEST | {"probe_id": "../../etc"}, "probe_id: string should match pattern"),
        (ProbeRequest, REQUEST | {"probe_id": ""}, "probe_id: string should match pattern"),
        (
            NodeShare,
            {"request": REQUEST, "rendezvous_port": 0},
            "rendezvous_port: input should be greater than",
        ),
        # What does not go together.
        (
            ProbeRequest,
            REQUEST | {"world_size": 3, "num_nodes": 2},
            "3 ranks do not spread evenly over 2 nodes",
        ),
        (ModelSpec, {"name": "x"}, "a model is either a Hugging Face configuration or a factory"),
        (ModelSpec, {"name": "x", "hf_config": {}, "factory": "a:b"}, "a model is either a Hugging Face"),
        (ModelSpec, {"name": "x", "factory": "a:b", "factory_path": "here"}, "factory_path must be absolute"),
        # What is missing, and what is something else altogether.
        (ProbeRequest, {"model": {"name": "x", "factory": "a:b"}}, "probe_id: field required"),
        (ProbeRequest, [1, 2], "input should be a valid dictionary or instance of ProbeRequest, not [1, 2]"),
        (ProbeRequest, "null", "input should be a valid dictionary or instance of ProbeRequest, not null"),
        (ProbeRequest, "", "not JSON: "),
        (ProbeRequest, '{"probe_id": "p"', "not JSON: "),
        (ProbeRequest, b"\xff\xfe\x00", "not JSON: "),
        (ProbeRequest, "[" * 100_000, "not JSON: "),
        (ProbeRequest, '{"seed": ' + "1" * 5000 + "}", "not JSON: "),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(message: type[Message], text: Any, sentence: str) -> None:
    with pytest.raises(ContractError) as caught:
        message.parse(text)
    said = str(caught.value)
    assert said.startswith(sentence)
    assert "\n" not in said


@pytest.mark.parametrize(
    "fields",
    [
        {"micro_batch_size": "x" * 10_000},
        {"precision": "x" * 10_000},
        {"compile": [["x"] * 1000]},
        {"x" * 10_000: 1},
    ],
    ids=["count", "choice", "switch", "key"],
)
def test_a_sentence_quotes_only_the_beginning_of_what_was_put_in(fields: dict[str, Any]) -> None:
    with pytest.raises(ContractError) as caught:
        TrainingConfig.parse(json.dumps(fields))
    known = ", ".join(TrainingConfig.model_fields)
    assert len(str(caught.value)) < SHOWN_CHARACTERS + len(known) + 100


def test_the_digest_changes_with_what_changes_the_model_and_with_nothing_else() -> None:
    spec = ModelSpec(name="a", factory="a:b", factory_path="/here", factory_version="1")
    same = [{"name": "b"}, {"factory_path": "/there"}]
    others = [{"factory": "a:c"}, {"factory_version": "2"}]
    assert {spec.model_copy(update=update).digest for update in same} == {spec.digest}
    assert spec.digest not in {spec.model_copy(update=update).digest for update in others}
    assert ModelSpec(name="a", hf_config={"x": 1, "y": 2}).digest == (
        ModelSpec(name="a", hf_config={"y": 2, "x": 1}).digest
    )


@given(configs, st.integers(min_value=1, max_value=4096))
def test_replicas_and_model_parallel_ranks_make_up_the_world(config: TrainingConfig, world: int) -> None:
    if world % config.model_parallel_size:
        with pytest.raises(ValueError, match="cannot be split"):
            config.data_parallel_size(world)
    else:
        assert config.data_parallel_size(world) * config.model_parallel_size == world


@given(st.integers(min_value=0, max_value=2**50))
def test_a_bucket_is_at_most_deepspeeds_own_and_never_tiny(num_parameters: int) -> None:
    bucket = engine_constants(num_parameters).deepspeed_bucket_elements
    assert 1_000_000 <= bucket <= 500_000_000
    assert bucket <= max(1_000_000, num_parameters / 4)


@pytest.mark.parametrize(
    ("num_nodes", "node", "ranks"), [(1, 0, range(4)), (2, 0, range(2)), (2, 1, range(2, 4))]
)
def test_a_nodes_share_are_ranks_in_a_row(num_nodes: int, node: int, ranks: range) -> None:
    request = probe(world_size=4, num_nodes=num_nodes)
    assert NodeShare(request=request, node_rank=node, rendezvous_port=1).ranks == ranks


def test_a_long_list_of_known_words_does_not_swamp_the_sentence() -> None:
    assert nearest("zzz", ["a", "b"]) == "; known are a, b"
    many = [f"word-{number}" for number in range(40)]
    assert nearest("zzz", many).endswith("word-11 and 28 more")
    assert nearest("zzz", many, otherwise="; look them up") == "; look them up"
    assert nearest("wird-7", many, otherwise="; look them up") == "; did you mean 'word-7'?"


def test_what_was_put_in_is_quoted_as_json_has_it() -> None:
    assert [shown(value) for value in (None, True, False, 1, "a")] == ["null", "true", "false", "1", "'a'"]
