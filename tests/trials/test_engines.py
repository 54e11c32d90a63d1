"""Every engine trains as one fp32 process does: the same losses and gradient norms, step by step."""

import itertools
from typing import Any

import pytest
from agreement import TOLERANCES, Reference, Run, agrees, check, difference, trained
from pairs import COMPILED, covering, legal
from probes import CPU, TINY, factory_model, probe

from trials.contract.capabilities import refusal
from trials.contract.config import TrainingConfig
from trials.contract.outcome import Outcome

SHARDINGS = ("ddp", "fsdp", "zero1", "zero2", "zero3")


def runnable(**choices: tuple[str, ...]) -> list[dict[str, str]]:
    """The combinations of `choices` that no row of the capabilities refuses."""
    combinations = (
        dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())
    )
    return [fields for fields in combinations if refusal(TrainingConfig(**fields), CPU) is None]


def named(fields: dict[str, str]) -> str:
    return "-".join(fields.values())


def told_apart(fields: dict[str, Any]) -> str:
    """A name of the fields that do not have their default."""
    defaults = TrainingConfig().model_dump()
    return named({field: value for field, value in fields.items() if value != defaults[field]}) or "defaults"


@pytest.mark.parametrize("model", ["llama", "llama-tied"])
@pytest.mark.parametrize(
    "fields",
    runnable(sharding=SHARDINGS, precision=tuple(TOLERANCES), activation_checkpointing=("none", "full")),
    ids=named,
)
def test_two_ranks_with_accumulation_train_as_one_process(
    run: Run, reference: Reference, model: str, fields: dict[str, str]
) -> None:
    result = run(probe(TINY[model], {**fields, "gradient_accumulation_steps": 2}))
    check(result, reference(TINY[model]), fields)


@pytest.mark.parametrize("model", ["gpt2", "mixtral", "qwen3-moe", "factory"])
@pytest.mark.parametrize("fields", runnable(sharding=SHARDINGS, precision=("fp32", "bf16")), ids=named)
def test_other_models_too(run: Run, reference: Reference, model: str, fields: dict[str, str]) -> None:
    result = run(probe(TINY[model], {**fields, "gradient_accumulation_steps": 2}))
    check(result, reference(TINY[model]), fields)


@pytest.mark.timeout(600)  # DeepSpeed's CPUAdam may be compiled here, once per machine
@pytest.mark.parametrize("fields", covering(legal(CPU, without=COMPILED)), ids=told_apart)
def test_every_pair_of_options_trains_the_same(
    run: Run, reference: Reference, fields: dict[str, Any]
) -> None:
    """HSDP on two nodes of two ranks each, which have half of the sequences each."""
    nodes = {"world_size": 4, "num_nodes": 2} if fields["sharding"] == "hsdp" else {}
    size = {"micro_batch_size": 1 if nodes else 2, "gradient_accumulation_steps": 2}
    result = run(probe(config={**fields, **size}, **nodes))
    check(result, reference(TINY["llama"], **trained(fields)), fields)


@pytest.mark.parametrize(
    ("compiled", "sharding"),
    [(name, s) for name in COMPILED for s in ("ddp", "fsdp", "zero2") if (name, s) != ("optimizer", "zero2")],
)
def test_what_is_compiled_trains_the_same(
    run: Run, reference: Reference, compiled: str, sharding: str
) -> None:
    """8-bit states are kept of matrices from 4,096 weights up, in blocks that sharding cuts differently."""
    fields = {compiled: COMPILED[compiled], "sharding": sharding}
    result = run(probe(TINY["llama-wide"], {**fields, "gradient_accumulation_steps": 2}))
    found = reference(TINY["llama-wide"], **trained(fields))
    check(result, found, fields)


@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize(("micro_batch_size", "accumulation"), [(4, 1), (1, 4)])
def test_the_global_batch_may_be_split_in_any_way(
    run: Run, reference: Reference, sharding: str, micro_batch_size: int, accumulation: int
) -> None:
    config = {
        "sharding": sharding,
        "micro_batch_size": micro_batch_size,
        "gradient_accumulation_steps": accumulation,
    }
    check(run(probe(config=config)), reference(TINY["llama"]), {})


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_one_rank_alone_runs_every_engine(run: Run, reference: Reference, sharding: str) -> None:
    result = run(probe(config={"sharding": sharding, "micro_batch_size": 8}, world_size=1))
    check(result, reference(TINY["llama"]), {})


@pytest.mark.timeout(600)  # DeepSpeed's CPUAdam is compiled here, once per machine
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_optimizer_states_in_cpu_memory_train_the_same(
    run: Run, reference: Reference, precision: str
) -> None:
    for sharding, optimizer in (("zero1", "adamw"), ("zero2", "adam"), ("zero3", "adamw")):
        config = {
            "sharding": sharding,
            "precision": precision,
            "optimizer": optimizer,
            "offload": "optimizer",
            "gradient_accumulation_steps": 2,
        }
        check(run(probe(config=config)), reference(TINY["llama"], optimizer=optimizer), config)


def test_the_runs_compared_are_clipped(reference: Reference) -> None:
    """Else an engine that forgets to clip would go unnoticed."""
    for model in TINY.values():
        assert max(reference(model).gradient_norms) > 1.0


def test_another_seed_is_another_run(run: Run, reference: Reference) -> None:
    """So agreement says something: it is not that every run gives the same figures."""
    other = run(probe(config={"micro_batch_size": 8}, world_size=1, seed=1))
    assert not agrees(other, reference(TINY["llama"]), TOLERANCES["bf16_pure"])


def test_adam_and_adamw_differ_by_their_weight_decay(reference: Reference) -> None:
    adam, adamw = (reference(TINY["llama"], optimizer=optimizer) for optimizer in ("adam", "adamw"))
    assert adam.losses[0] == adamw.losses[0]
    assert not agrees(adam, adamw, TOLERANCES["fp32"])


# What an engine could do wrong, and whether the wider tolerance of bf16 would still show it: that of the
# optimizer's step on two later losses is smaller than what bf16 rounds away.
FAULTS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("not_divided_by_accumulation", {"sharding": "ddp"}, ("fp32", "bf16")),
    ("not_divided_by_accumulation", {"sharding": "fsdp"}, ("fp32", "bf16")),
    ("zero_not_divided_by_accumulation", {"sharding": "zero2"}, ("fp32", "bf16")),
    ("zero_not_divided_by_accumulation", {"sharding": "zero3"}, ("fp32", "bf16")),
    ("layers_skipped", {"sharding": "ddp"}, ("fp32", "bf16")),
    ("layers_skipped", {"sharding": "zero1"}, ("fp32", "bf16")),
    ("gradients_not_synchronised", {"sharding": "ddp"}, ("fp32", "bf16")),
    ("zero_gradients_not_synchronised", {"sharding": "zero1"}, ("fp32", "bf16")),
    ("not_clipped", {"sharding": "ddp", "optimizer": "sgd"}, ("fp32",)),
    ("no_optimizer_step", {"sharding": "ddp"}, ("fp32",)),
    ("learning_rate_doubled", {"sharding": "fsdp"}, ("fp32",)),
]


@pytest.mark.parametrize(
    ("fault", "fields", "precision"),
    [(fault, fields, precision) for fault, fields, precisions in FAULTS for precision in precisions],
)
def test_a_faulty_engine_is_found_out(
    run: Run, reference: Reference, fault: str, fields: dict[str, Any], precision: str
) -> None:
    sound = reference(TINY["factory"], optimizer=fields.get("optimizer", "adamw"))
    config = {**fields, "precision": precision, "gradient_accumulation_steps": 2}
    result = run(probe(factory_model(f"broken_engines:{fault}"), config))
    assert result.outcome == Outcome.MEASURED, result
    print(difference(result.losses, sound.losses), difference(result.gradient_norms, sound.gradient_norms))
    assert not agrees(result, sound, TOLERANCES[precision])
