"""The table of precisions in docs/architecture.md is what the engines' objects show during a step."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from probes import CPU, probe

from trials.contract.capabilities import ENGINE_OF_SHARDING, refusal
from trials.contract.config import TrainingConfig
from trials.contract.environment import probe_variables

ROOT = Path(__file__).parents[2]
LOOK = Path(__file__).with_name("live_objects.py")
SHARDINGS = ("ddp", "fsdp", "zero1", "zero2", "zero3")
PRECISIONS = ("fp32", "bf16", "fp16", "bf16_pure")
FORMAT = r"\b(?:fp32|bf16|fp16)\b"
ROW = re.compile(r"\| (native|fsdp|zero) ([^,|]+?)(, optimizer offloaded)? \|(.*)\|")

Case = tuple[str, str, str]
"""Engine or sharding, precision, offload."""

# Offloading changes formats in bf16 and fp16 alone, and fp16 only runs on GPUs there.
CASES: list[Case] = [
    (sharding, precision, offload)
    for sharding in SHARDINGS
    for precision in PRECISIONS
    for offload in (("none", "optimizer") if precision == "bf16" else ("none",))
    if refusal(TrainingConfig(sharding=sharding, precision=precision, offload=offload), CPU) is None
]


@pytest.fixture(scope="module")
def documented() -> dict[Case, dict[str, list[str]]]:
    """Every row of the table for each precision it names: role → formats."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text[text.index("| | stored weights |") :].split("\n\n")[0]
    roles = [cell.strip() for cell in table.splitlines()[0].split("|")[2:-1]]
    rows: dict[Case, dict[str, list[str]]] = {}
    for engine, named, offloaded, cells in ROW.findall(table):
        precisions = named.split(" / ")
        for position, precision in enumerate(precisions):
            formats = [re.findall(FORMAT, cell) for cell in cells.split("|")]
            own = [f[position : position + 1] if len(f) == len(precisions) else f for f in formats]
            offloads = ("optimizer",) if offloaded else ("none", "optimizer")
            rows |= {(engine, precision, o): dict(zip(roles, own, strict=True)) for o in offloads}
    return rows


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    """What all cases show, each trained on two ranks by one process."""
    folder = tmp_path_factory.mktemp("live")
    requests = {
        " ".join((sharding, precision, offload)): probe(
            config={"sharding": sharding, "precision": precision, "offload": offload}
        ).model_dump(mode="json")
        for sharding, precision, offload in CASES
    }
    (folder / "requests.json").write_text(json.dumps(requests))
    done = subprocess.run(
        [sys.executable, "-P", LOOK, folder / "requests.json", folder / "found.json"],
        env={**os.environ, **probe_variables("cpu"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answers: dict[str, dict[str, list[str]]] = json.loads((folder / "found.json").read_text())
    return answers


@pytest.mark.timeout(600)  # DeepSpeed's CPUAdam may be compiled here, once per machine
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_the_objects_of_a_step_are_as_documented(
    case: Case,
    documented: dict[Case, dict[str, list[str]]],
    found: dict[str, dict[str, list[str]]],
) -> None:
    sharding, precision, offload = case
    assert found[" ".join(case)] == documented[ENGINE_OF_SHARDING[sharding], precision, offload]


def test_every_engine_and_precision_is_documented(documented: dict[Case, dict[str, list[str]]]) -> None:
    assert set(documented) == {
        (engine, precision, offload)
        for engine in ENGINE_OF_SHARDING.values()
        for precision in PRECISIONS
        for offload in ("none", "optimizer")
    }
