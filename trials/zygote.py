"""A process with everything imported, which forks the ranks of one probe after another.

Speaks JSON lines: a NodeShare with a folder comes in on stdin, the reports of its ranks go out on
stdout. A line `cancel`, or the end of stdin, ends the running probe.
"""

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path

from trials.contract.capabilities import ENGINE_OF_SHARDING
from trials.contract.messages import DeviceKind, NodeShare, ProbeRequest, RankReport
from trials.operators import load_operators, needed_operators
from trials.processes import die_with_parent


class Zygote:
    """Imports once, forks often. It never runs an operator and never touches CUDA itself."""

    def __init__(self, device: DeviceKind) -> None:
        os.environ["DS_ACCELERATOR"] = device
        for module in ("torch.distributed.fsdp", "torch.distributed.tensor", "trials.rank"):
            importlib.import_module(module)
        import transformers

        transformers.utils.logging.disable_progress_bar()

    def prepare(self, request: ProbeRequest) -> None:
        """Import what this probe's ranks will, so that they find it imported.

        Failures are left for the ranks to meet again and report.
        """
        import torch

        if ENGINE_OF_SHARDING[request.config.sharding] == "zero":
            importlib.import_module("deepspeed")
            # Imported by DeepSpeed with its first optimizer, for a second and a half.
            importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
            load_operators(needed_operators(request))
        if request.model.hf_config is not None:
            from trials.model import ModelUnusable, model_class

            with contextlib.suppress(ModelUnusable):
                model_class(request.model.hf_config)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            raise RuntimeError("CUDA was initialised in the process that forks: no rank could use it")

    def run(self, share: NodeShare, folder: Path, control: int | None = None) -> list[RankReport]:
        """Run one node's share of a probe to its end."""
        from trials.node import run_ranks
        from trials.rank import run_rank

        self.prepare(share.request)
        return run_ranks(share, folder, run_rank, control)


def main() -> None:
    """Serve requests until stdin ends: `python -P -m trials.zygote cpu|cuda PARENT_PID`."""
    device, parent = sys.argv[1], int(sys.argv[2])
    die_with_parent(parent)
    # Answers have a pipe of their own: whatever a library prints goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    requests = _Lines(0)
    zygote = Zygote("cuda" if device == "cuda" else "cpu")
    while line := requests.next():
        if line == "cancel":  # of a probe that had just ended
            continue
        request = json.loads(line)
        reports = zygote.run(NodeShare.model_validate(request["share"]), Path(request["folder"]), control=0)
        print(json.dumps([r.model_dump(mode="json") for r in reports]), file=answers, flush=True)


class _Lines:
    """Lines of a file descriptor, read no further than needed: what is unread stays visible to select."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""

    def next(self) -> str | None:
        while b"\n" not in self._rest:
            chunk = os.read(self._descriptor, 65536)
            if not chunk:
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()


if __name__ == "__main__":
    main()
