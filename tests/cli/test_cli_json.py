"""`--json`: one object of the published shape on stdout, and nothing else."""

import json
from typing import Any

import jsonschema
import pytest
from cli_support import Cli
from fakes import FakeExecutor

from autotune.errors import NothingFits
from autotune.jobs import JobStatus
from trials.contract.config import TrainingConfig
from trials.contract.outcome import Outcome

COUNT = {"type": "integer", "minimum": 0}
NUMBER = {"type": "number", "minimum": 0}
TEXT = {"type": "string", "minLength": 1}


def exactly(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def among(properties: dict[str, Any]) -> dict[str, Any]:
    return exactly(properties) | {"additionalProperties": True}


def each(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


VALUE = {"type": ["integer", "string", "boolean"]}
CONFIG = exactly(dict.fromkeys(TrainingConfig.model_fields, VALUE))
ESTIMATE = exactly({"median": NUMBER, "low": NUMBER, "high": NUMBER})
EVIDENCE = {"enum": ["confirmed", "measured", "forecast"]}
ROWS = {
    "type": "array",
    "items": among(
        {
            "config": CONFIG, "world_size": COUNT, "tokens_per_second": ESTIMATE, "step_s": NUMBER,
            "mfu": or_null(NUMBER), "peak_bytes": COUNT, "reserved_bytes": COUNT,
            "memory": {"type": "object", "additionalProperties": COUNT},
        }
    ),
}  # fmt: skip
RECOMMENDATION = exactly(
    {
        "config": CONFIG, "global_batch_size": COUNT, "trial": COUNT, "tokens_per_second": ESTIMATE,
        "peak_bytes": COUNT, "ceiling_bytes": COUNT, "headroom": NUMBER, "mfu": or_null(NUMBER),
        "evidence": EVIDENCE,
        "baseline": exactly(
            {"config": CONFIG, "tokens_per_second": or_null(ESTIMATE), "reason": or_null(TEXT)}
        ),
        "speedup": or_null(ESTIMATE), "ties": ROWS,
    }
)  # fmt: skip
ANSWER = exactly(
    {
        "job": TEXT, "status": {"enum": list(JobStatus)}, "reason": or_null(TEXT),
        "recommendation": or_null(RECOMMENDATION), "by_length": ROWS, "alternatives": ROWS, "front": ROWS,
        "counts": {
            "type": "object", "propertyNames": {"enum": list(Outcome)}, "additionalProperties": COUNT,
            "required": list(Outcome),
        },
        "spent": exactly({"trials": COUNT, "seconds": NUMBER, "gpu_hours": NUMBER}),
    }
)  # fmt: skip
TRIALS = exactly(
    {
        "trials": each(
            among(
                {
                    "number": COUNT, "state": {"enum": ["WAITING", "RUNNING", "COMPLETE", "FAIL"]},
                    "outcome": {"enum": [*Outcome, None]}, "config": CONFIG,
                    "tokens_per_second": or_null(ESTIMATE), "peak_bytes": or_null(COUNT),
                    "reason": or_null(TEXT), "seconds": NUMBER,
                }
            )
        )
    }
)  # fmt: skip
SHAPES = {
    "models": exactly({"models": each(among({"name": TEXT, "parameters": COUNT}))}),
    "gpus": exactly(
        {
            "gpus": each(among({"name": TEXT, "memory_gib": NUMBER})),
            "here": each(among({"name": TEXT, "kind": {"enum": ["cpu", "cuda"]}, "per_node": COUNT})),
        }
    ),
    "spaces": exactly({"spaces": each(exactly({"name": TEXT, "description": TEXT, "varies": each(TEXT)}))}),
    "spaces fsdp --for llama-3.1-8b --gpus T4:2": exactly(
        {
            "space": TEXT, "model": TEXT, "gpus": TEXT, "legal": COUNT, "total": COUNT,
            "dimensions": {"type": "object", "minProperties": 1},
            "left_out": each(among({"field": TEXT, "reason": TEXT})),
            "rejected": each(exactly({"code": TEXT, "reason": TEXT, "count": COUNT})),
            "notes": {"type": "array"},
        }
    ),
    "spaces cpu": among({"name": TEXT, "dimensions": {"type": "object", "minProperties": 1}}),
    "jobs": exactly(
        {
            "jobs": each(
                exactly(
                    {
                        "job": TEXT, "status": {"enum": list(JobStatus)}, "reason": TEXT, "model": TEXT,
                        "gpus": TEXT,
                    }
                )
            )
        }
    ),
    "show recorded": ANSWER,
    "show hopeless": ANSWER,
    "resume recorded": ANSWER,
    "trials recorded": TRIALS,
    "trials hopeless": TRIALS,
    "export recorded --to torchrun --output out": exactly({"files": each(TEXT)}),
}  # fmt: skip


@pytest.mark.parametrize("command", SHAPES)
@pytest.mark.usefixtures("recorded")
def test_the_object_has_its_shape(cli: Cli, command: str):
    ended = cli(*command.split(), "--json")
    jsonschema.validate(ended.json, SHAPES[command])
    assert ended.err == ""


@pytest.mark.usefixtures("recorded")
def test_a_job_that_found_nothing_recommends_nothing(cli: Cli):
    answer = cli("show", "hopeless", "--json").json
    assert answer["recommendation"] is None
    assert answer["status"] == "failed"
    assert "autotune trials hopeless" in answer["reason"]
    assert [outcome for outcome, count in answer["counts"].items() if count] == ["non_finite"]
    assert list(answer["counts"]) == list(Outcome)


@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome.OUT_OF_MEMORY, NothingFits.exit_code), (Outcome.CRASHED, 4)]
)
def test_a_job_that_comes_to_nothing_has_an_answer_too(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, code: int
):
    def scripted(layout: object, address: object) -> FakeExecutor:
        return FakeExecutor(lambda config, attempt: outcome)

    monkeypatch.setattr("autotune.service.EXECUTORS", {"local": scripted})
    words = ("tune", "tiny.json", "--gpus", "cpu:2", "--executor", "local", "--name", "vain", "--trials", "1")
    for ended in (cli(*words, "--json"), cli("resume", "vain", "--json")):
        assert ended.code == code
        answer = json.loads(ended.out)
        jsonschema.validate(answer, ANSWER)
        assert answer["recommendation"] is None
        assert answer["status"] == "failed"
        assert answer["counts"][outcome] > 0
        assert ended.err.splitlines()[-1] == f"autotune: {answer['reason']}"


def test_what_is_no_job_has_no_answer(cli: Cli):
    ended = cli("tune", "tiny.json", "--gpus", "cpu:2", "--ceiling", "10MiB", "--json")
    assert "nothing fits under 10 MiB" in ended.sentence


@pytest.mark.usefixtures("recorded")
def test_a_finished_job_just_gives_its_answer_again(cli: Cli):
    assert cli("resume", "recorded", "--json").json == cli("show", "recorded", "--json").json


def test_a_printed_space_is_one_to_copy(cli: Cli, home):
    (home / "mine.yaml").write_text(cli("spaces", "cpu").out)
    mine, shipped = cli("spaces", "mine.yaml", "--json").json, cli("spaces", "cpu", "--json").json
    assert mine["dimensions"] == shipped["dimensions"]


def test_models_are_counted_in_parameters(cli: Cli):
    parameters = {row["name"]: row["parameters"] for row in cli("models", "--json").json["models"]}
    assert parameters["llama-3.1-8b"] == 8_030_261_248  # as Meta's model card has it, 8.03 billion
