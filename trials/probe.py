"""One probe, alone, on this machine: `python -P -m trials.probe request.json result.json`."""

import os
import socket
import sys
import tempfile
import time
from pathlib import Path

from trials.contract.merge import merge
from trials.contract.message import ContractError
from trials.contract.messages import NodeShare, ProbeRequest, ProbeResult

USAGE = """usage: python -P -m trials.probe request.json result.json

Runs one short, real training probe and writes what it measured. request.json is a ProbeRequest, for
example:

  {"probe_id": "p1", "world_size": 2, "device": "cpu",
   "model": {"name": "tiny", "hf_config": {"model_type": "llama", "vocab_size": 1024, "hidden_size": 128,
             "intermediate_size": 344, "num_hidden_layers": 4, "num_attention_heads": 4}},
   "config": {"sharding": "fsdp", "precision": "bf16", "micro_batch_size": 2, "sequence_length": 64}}

Exit codes: 0 the result says what became of the probe; 1 the machine failed; 2 the request is not one."""


def single_threaded_environment() -> dict[str, str]:
    """One thread per rank; and no helper threads, which would not survive the fork."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as candidate:
        candidate.bind(("", 0))
        port: int = candidate.getsockname()[1]
        return port


def run_probe(request: ProbeRequest) -> ProbeResult:
    """Run every rank of `request` on this machine and wait for the result."""
    os.environ.update(single_threaded_environment())
    from trials.zygote import Zygote

    zygote = Zygote(request.device)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="autotune-probe-") as folder:
        share = NodeShare(request=request, rendezvous_port=free_port())
        reports = zygote.run(share, Path(folder))
    return merge(request, reports, time.monotonic() - started)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(USAGE, file=sys.stdout if arguments in (["-h"], ["--help"]) else sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    source, target = map(Path, arguments)
    try:
        request = ProbeRequest.parse(source.read_bytes())
    except OSError as error:
        print(f"{source} cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    except ContractError as error:
        print(f"{source} is not a probe request: {error}", file=sys.stderr)
        return 2
    if request.num_nodes > 1:
        print("a probe of several nodes needs an executor; this command runs one node", file=sys.stderr)
        return 2
    result = run_probe(request)
    target.write_text(result.model_dump_json(indent=2) + "\n")
    print(f"{result.outcome}" + (f": {result.reason}" if result.reason else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
