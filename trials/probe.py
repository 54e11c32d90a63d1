"""One probe, alone, on this machine: `python -P -m trials.probe request.json result.json`."""

import os
import sys
import tempfile
import time
from pathlib import Path

from trials.command import BadInput, run_command
from trials.contract.environment import probe_variables
from trials.contract.merge import merge
from trials.contract.messages import NodeShare, ProbeRequest, ProbeResult
from trials.contract.rendezvous import free_port

USAGE = """usage: python -P -m trials.probe request.json result.json

Runs one short, real training probe and writes what it measured. request.json is a ProbeRequest, for
example:

  {"probe_id": "p1", "world_size": 2, "device": "cpu",
   "model": {"name": "tiny", "hf_config": {"model_type": "llama", "vocab_size": 1024, "hidden_size": 128,
             "intermediate_size": 344, "num_hidden_layers": 4, "num_attention_heads": 4}},
   "config": {"sharding": "fsdp", "precision": "bf16", "micro_batch_size": 2, "sequence_length": 64}}

Exit codes: 0 the result says what became of the probe; 1 the machine failed; 2 the request or a path is
wrong; 130 interrupted."""


def run_probe(request: ProbeRequest) -> ProbeResult:
    """Run every rank of `request` on this machine and wait for the result; raises BadInput."""
    if request.num_nodes > 1:
        raise BadInput("a probe of several nodes needs an executor; this command runs one node")
    os.environ.update(probe_variables(request.device))
    from trials.zygote import Zygote

    zygote = Zygote(request.device)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="autotune-probe-") as folder:
        share = NodeShare(request=request, rendezvous_port=free_port())
        reports = zygote.run(share, Path(folder))
    return merge(request, reports, time.monotonic() - started)


def _summary(result: ProbeResult) -> str:
    return f"{result.outcome}" + (f": {result.reason}" if result.reason else "")


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], USAGE, run_probe, _summary))
