"""What a trace takes, and what extrapolating from two depths costs in accuracy.

`python benchmarks/trace.py` writes results/trace.json: the command on Llama 3.1 70B from start to end, and
Llama 3.2 1B from two shallow models against all of its layers.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from machine import save

from autotune.models.resolve import resolve
from trials import trace
from trials.contract.config import TrainingConfig
from trials.contract.messages import ProbeRequest, TraceResult

LARGE = (
    ("llama-3.1-70b", {"sharding": "ddp", "sequence_length": 4096, "precision": "bf16_pure"}, 1),
    ("llama-3.1-70b", {"sharding": "fsdp", "sequence_length": 8192, "activation_checkpointing": "full"}, 64),
)
SMALL = tuple(
    ("llama-3.2-1b", {"sequence_length": 2048, **fields}, world)
    for fields, world in (
        ({}, 1),
        ({"activation_checkpointing": "full", "micro_batch_size": 4}, 1),
        ({"activation_checkpointing": "selective", "precision": "bf16_pure"}, 1),
        ({"sharding": "fsdp"}, 8),
    )
)


def request(model: str, fields: dict[str, Any], world_size: int) -> ProbeRequest:
    return ProbeRequest(
        probe_id="trace",
        model=resolve(model).spec,
        config=TrainingConfig.parse(fields),
        world_size=world_size,
    )


def command(asked: ProbeRequest) -> tuple[float, TraceResult]:
    """Wall seconds of the command, from python's start to the written result."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "request.json", Path(folder) / "result.json"
        source.write_text(asked.to_json())
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-P", "-m", "trials.trace", str(source), str(target)],
            check=True,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        return time.perf_counter() - started, TraceResult.parse(target.read_bytes())


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    walls = []
    for model, fields, world_size in LARGE:
        seconds, result = command(request(model, fields, world_size))
        walls.append(
            {"model": model, "config": fields, "world_size": world_size, "wall_s": seconds,
             "peak_bytes": result.peak_bytes, "traced_layers": result.traced_layers}
        )  # fmt: skip
        print(f"{model} × {world_size}: {seconds:.1f} s, {result.peak_bytes / 2**30:.1f} GiB of tensors")
    depths = []
    for model, fields, world_size in SMALL:
        asked = request(model, fields, world_size)
        shallow = trace.trace(asked)
        whole = trace.trace_whole(asked)
        error = shallow.peak_bytes / whole.peak_bytes - 1
        depths.append(
            {"model": model, "config": fields, "world_size": world_size, "error": error,
             "extrapolated_bytes": shallow.peak_bytes, "whole_bytes": whole.peak_bytes,
             "extrapolated_s": shallow.seconds, "whole_s": whole.seconds}
        )  # fmt: skip
        print(f"{model} × {world_size} {json.dumps(fields)}: {error:+.3%}, {whole.seconds:.1f} s whole")
    print(f"written to {save('trace', {'commands': walls, 'two_depths': depths})}")


if __name__ == "__main__":
    main()
