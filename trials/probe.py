"""One probe, alone, on this machine: `python -P -m trials.probe request.json result.json`."""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from trials.contract.environment import probe_variables
from trials.contract.merge import merge
from trials.contract.message import ContractError
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
    """Run every rank of `request` on this machine and wait for the result."""
    os.environ.update(probe_variables())
    from trials.zygote import Zygote

    zygote = Zygote(request.device)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="autotune-probe-") as folder:
        share = NodeShare(request=request, rendezvous_port=free_port())
        reports = zygote.run(share, Path(folder))
    return merge(request, reports, time.monotonic() - started)


class BadInput(Exception):
    """What the command was given cannot be used; the message is one sentence."""


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        request, target = _read(arguments)
        result = run_probe(request)
        _write(target, result.model_dump_json(indent=2) + "\n")
    except BadInput as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except OSError as error:
        return _fail(f"the machine failed: {error}", 1)
    print(f"{result.outcome}" + (f": {result.reason}" if result.reason else ""))
    return 0


def _fail(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


def _read(arguments: list[str]) -> tuple[ProbeRequest, Path]:
    """The request, and where its result can be written. Raises BadInput."""
    if len(arguments) != 2:
        raise BadInput(USAGE)
    source, target = map(Path, arguments)
    try:
        request = ProbeRequest.parse(source.read_bytes())
    except OSError as error:
        raise BadInput(f"{source} cannot be read: {error.strerror}") from error
    except ContractError as error:
        raise BadInput(f"{source} is not a probe request: {error}") from error
    if request.num_nodes > 1:
        raise BadInput("a probe of several nodes needs an executor; this command runs one node")
    if target.is_dir():
        raise BadInput(f"{target} cannot be written: it is a folder")
    try:
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:  # better now than after the probe
        raise BadInput(f"{target} cannot be written: {error.strerror}") from error
    return request, target


def _write(target: Path, text: str) -> None:
    """All of it or nothing."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_text(text)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
