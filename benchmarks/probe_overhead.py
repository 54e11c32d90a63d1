"""Seconds of a probe that are not measured steps: a cold process against a warm zygote, in one run.

Both run the same request on two CPU ranks, alternating, so that a noisy machine is noisy for both.
`python benchmarks/probe_overhead.py [ROUNDS]` prints a table and writes results/probe_overhead.json.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from machine import save

from autotune.execution.executor import Layout
from autotune.execution.local import LocalExecutor
from trials.contract.config import TrainingConfig
from trials.contract.messages import MeasurementPlan, ModelSpec, ProbeRequest, ProbeResult

MODEL = ModelSpec(
    name="llama-1m",
    hf_config={
        "model_type": "llama",
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 344,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
)
SHARDINGS = ("ddp", "fsdp", "zero1", "zero3")


def request(sharding: str, round_number: int) -> ProbeRequest:
    return ProbeRequest(
        probe_id=f"{sharding}-{round_number}",
        model=MODEL,
        config=TrainingConfig(sharding=sharding, micro_batch_size=2, sequence_length=64),
        world_size=2,
        measurement=MeasurementPlan(max_steps=10),
    )


def cold(probe: ProbeRequest) -> ProbeResult:
    """A process of its own, from python's start to the written result."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "request.json", Path(folder) / "result.json"
        source.write_text(probe.to_json())
        subprocess.run(
            [sys.executable, "-P", "-m", "trials.probe", str(source), str(target)],
            check=True,
            capture_output=True,
        )
        return ProbeResult.parse(target.read_bytes())


def overhead_s(run: ProbeResult, started: float) -> float:
    assert run.outcome == "measured", run.reason
    return time.monotonic() - started - sum(run.step_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=5)
    rounds = parser.parse_args().rounds

    rows = []
    with LocalExecutor(Layout("cpu", 1, 2, 1)) as zygote:
        for sharding in SHARDINGS:
            zygote.submit(request(sharding, 0)).result()  # imports, and operators compiled once per machine
            cold_s, warm_s = [], []
            for number in range(1, rounds + 1):
                probe = request(sharding, number)
                started = time.monotonic()
                cold_s.append(overhead_s(cold(probe), started))
                started = time.monotonic()
                warm_s.append(overhead_s(zygote.submit(probe).result(), started))
            ratio = median(c / w for c, w in zip(cold_s, warm_s, strict=True))
            rows.append({"sharding": sharding, "cold_s": cold_s, "zygote_s": warm_s, "ratio": ratio})
            print(
                f"{sharding:6}  cold {median(cold_s):5.2f} s   zygote {median(warm_s):5.2f} s   "
                f"ratio {ratio:4.1f}×"
            )
    path = save(
        "probe_overhead",
        {"world_size": 2, "model": MODEL.hf_config, "rounds": rounds, "rows": rows},
    )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
