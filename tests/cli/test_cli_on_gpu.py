"""A job on a real GPU, from the command line to its export. Needs a CUDA device: `make test-gpu`."""

import json
from pathlib import Path

import jsonschema
import pytest
from cli_support import run_process
from test_cli_json import ANSWER

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]


def test_a_job_finds_a_configuration_of_this_machines_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AUTOTUNE_STORAGE", "AUTOTUNE_RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    plan = run_process(tmp_path, "plan", "gpt2-medium", "--set", "sequence_length=1024", "--json").json
    assert plan["fitting"] > 0

    tune = [
        "tune", "gpt2-medium", "--executor", "local", "--name", "job", "--set", "sequence_length=1024",
        "--ceiling", "20GiB", "--trials", "8", "--probe-seconds", "2", "--json",
    ]  # fmt: skip
    answer = run_process(tmp_path, *tune).json
    print(json.dumps(answer, indent=1))
    jsonschema.validate(answer, ANSWER)
    chosen = answer["recommendation"]
    assert chosen["evidence"] == "confirmed"
    assert 0.2 * chosen["ceiling_bytes"] < chosen["peak_bytes"] <= chosen["ceiling_bytes"] * 0.95
    assert answer["counts"].get("crashed", 0) == 0
    assert answer["spent"]["gpu_hours"] > 0
    print(run_process(tmp_path, "trials", "job").out)
    print(run_process(tmp_path, "explain", "job").out)

    export = run_process(tmp_path, "export", "job", "--to", "deepspeed", "--output", "exported", "--json")
    assert export.json["files"]
