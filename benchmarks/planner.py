"""How fast a plan is made: candidates forecast per second, and `autotune plan` from start to end.

`python benchmarks/planner.py` writes results/planner.json. Wall times are medians over fresh processes, most
of them Python starting; an interpreter that imports nothing stands beside them.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from machine import save

from autotune.forecast.forecast import forecast
from autotune.hardware.parse import parse_inventory
from autotune.models.resolve import resolve
from autotune.search.facts import facts_of
from search_spaces.space import SearchSpace

AUTOTUNE = str(Path(sys.executable).with_name("autotune"))
COMMAND = [
    AUTOTUNE, "plan", "llama-3.1-405b", "--gpus", "64x8xH100-80GB", "--space", "three_d", "--json",
]  # fmt: skip
WIDE = {
    "micro_batch_size": range(1, 65),
    "sequence_length": range(1024, 32769, 1024),
    "precision": ["bf16", "bf16_pure", "fp16"],
    "activation_checkpointing": ["none", "selective", "full"],
    "loss": ["eager", "chunked"],
    "compile": [False, True],
    "sharding": ["ddp", "zero1", "zero2", "zero3", "fsdp"],
    "tensor_parallel_size": [1, 2, 4, 8],
}
ROUNDS = 7


def seconds_of(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    shape, group = resolve("llama-3.1-8b").shape, parse_inventory("H100:8").group
    space = SearchSpace.parse({"name": "wide", "dimensions": {k: list(v) for k, v in WIDE.items()}})
    rows = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        columns = space.enumerate(facts_of(shape, group, 8, to_probe=False)).columns
        enumerated = time.perf_counter()
        found = forecast(shape, group, 8, columns)
        ended = time.perf_counter()
        assert np.isfinite(found.step_s).all()
        rows.append((len(columns), enumerated - started, ended - enumerated))
    count = rows[0][0]
    rate = count / median(row[2] for row in rows)
    with_enumeration = count / median(row[1] + row[2] for row in rows)
    walls = [seconds_of(COMMAND) for _ in range(ROUNDS)]
    bare = [seconds_of([sys.executable, "-c", "pass"]) for _ in range(ROUNDS)]
    plan = json.loads(subprocess.run(COMMAND, check=True, capture_output=True).stdout)
    result = {
        "candidates": count,
        "forecast_per_s": rate,
        "enumerated_and_forecast_per_s": with_enumeration,
        "plan_405b": {
            "command": " ".join(COMMAND[1:]),
            "candidates": plan["candidates"],
            "wall_s": walls,
            "median_s": median(walls),
            "bare_interpreter_s": median(bare),
        },
    }
    print(f"{count:,} candidates: {rate:,.0f} forecast per second, {with_enumeration:,.0f} with enumeration")
    print(f"plan of 405B: {median(walls):.2f} s from start to end, a bare interpreter {median(bare):.2f} s")
    print(f"written to {save('planner', result)}")


if __name__ == "__main__":
    main()
