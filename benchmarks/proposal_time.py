"""How long the search takes to propose the next configuration.

`python benchmarks/proposal_time.py` writes results/proposal_time.json: seconds from asking for a trial to
having it, with 100,000 candidates and a history of probes made up from the forecast, many of
which ran out of memory. Each proposal sees one trial more than the one before, as in a job.
"""

import time
from statistics import median
from typing import Any

import numpy as np
import optuna
from machine import save

from autotune.forecast.forecast import forecast
from autotune.hardware.parse import parse_inventory
from autotune.models.resolve import resolve
from autotune.search.baseline import default_baseline
from autotune.search.candidates import Candidates
from autotune.search.cost_model import Knowledge
from autotune.search.facts import facts_of
from autotune.search.study import SearchStudy
from search_spaces.space import SearchSpace
from trials.contract.messages import Estimate, ProbeResult
from trials.contract.outcome import Outcome, Phase

NUM_CANDIDATES = 100_000
HISTORIES = (10, 50, 200)
PROPOSALS = 9
CEILING_BYTES = 70 << 30
MEMORY_ERROR, SPEED_ERROR = 0.05, 0.1
"""Standard deviations of the logarithm of what a probe measures over its forecast."""
WIDE: dict[str, Any] = {
    "name": "wide",
    "dimensions": {
        "micro_batch_size": list(range(1, 33)),
        "sequence_length": [2048],
        "precision": ["bf16", "bf16_pure", "fp16"],
        "activation_checkpointing": ["none", "selective", "full"],
        "loss": ["eager", "chunked"],
        "compile": [False, True],
        "sharding": ["ddp", "zero1", "zero2", "zero3", "fsdp"],
        "tensor_parallel_size": [1, 2, 4, 8],
        "optimizer": ["adamw", "sgd", "adamw_8bit"],
        "attention": ["sdpa", "flash"],
    },
}


def wide() -> Candidates:
    shape, group = resolve("llama-3.1-8b").shape, parse_inventory("H100:8").group
    columns = SearchSpace.parse(WIDE).enumerate(facts_of(shape, group, 8, to_probe=False)).columns
    rows = np.sort(np.random.default_rng(0).choice(len(columns), NUM_CANDIDATES, replace=False))
    columns = columns.select(rows)
    predicted = forecast(shape, group, 8, columns)
    return Candidates(
        columns, predicted, CEILING_BYTES, int(CEILING_BYTES * 0.95), (), len(columns), leanest=None
    )


def probed(candidates: Candidates, row: int, number: int, rng: np.random.Generator) -> ProbeResult:
    """What a probe of a candidate might have come to."""
    peak = int(candidates.forecast.device_bytes[row] * np.exp(rng.normal(0, MEMORY_ERROR)))
    speed = float(candidates.forecast.tokens_per_second[row] * np.exp(rng.normal(0, SPEED_ERROR)))
    too_large = peak > candidates.ceiling_bytes
    return ProbeResult(
        probe_id=f"{number}.0",
        outcome=Outcome.OUT_OF_MEMORY if too_large else Outcome.MEASURED,
        phase=Phase.DONE,
        tokens_per_second=None if too_large else Estimate(median=speed, low=speed * 0.98, high=speed * 1.02),
        peak_bytes=None if too_large else peak,
        seconds=20.0,
    )


def measured(candidates: Candidates, sampler: str, history: int) -> dict[str, Any]:
    """Medians over proposals, the first of which sees `history` finished trials."""
    rng = np.random.default_rng(1)
    study = SearchStudy(
        optuna.storages.InMemoryStorage(),
        "proposals",
        candidates,
        default_baseline(candidates),
        sampler,
        0,
        Knowledge(world_size=8),
    )
    for row in rng.choice(len(candidates), history, replace=False).tolist():
        asked = study.ask_for(candidates.config(row))
        study.tell(asked.number, probed(candidates, row, asked.number, rng))
    failed = sum(trial.outcome == Outcome.OUT_OF_MEMORY for trial in study.trials())
    asks = []
    for _ in range(PROPOSALS):
        started = time.perf_counter()
        asked = study.ask()
        asks.append(time.perf_counter() - started)
        row = candidates.index(asked.config)
        assert row is not None
        study.tell(asked.number, probed(candidates, row, asked.number, rng))
    return {
        "history": history,
        "out_of_memory": failed,
        "ask_s": median(asks),
        "slowest_ask_s": max(asks),
    }


def main() -> None:
    candidates = wide()
    found: dict[str, list[dict[str, Any]]] = {}
    for sampler in ("cost_model", "forecast_order", "tpe"):
        found[sampler] = [measured(candidates, sampler, history) for history in HISTORIES]
        for one in found[sampler]:
            print(sampler, ", ".join(f"{k} {v:.3g}" for k, v in one.items()))
    result = {"candidates": len(candidates), "proposals": PROPOSALS, "samplers": found}
    print(f"written to {save('proposal_time', result)}")


if __name__ == "__main__":
    main()
