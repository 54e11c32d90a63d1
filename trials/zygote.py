"""A process with everything imported, which forks the ranks of one probe after another.

Speaks JSON lines: a NodeShare with a folder comes in on stdin, the reports of its ranks go out on
stdout. A line `cancel`, or the end of stdin, ends the running probe.
"""

import contextlib
import importlib
import json
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from trials.contract.constants import engine_constants
from trials.contract.messages import DeviceKind, NodeShare, ProbeRequest, RankReport
from trials.contract.outcome import Outcome, Phase
from trials.malloc import give_back_from
from trials.operators import OperatorUnavailable, load_operators, needed_operators
from trials.processes import adopt_orphans, die_with_parent
from trials.quiet import quiet_libraries

IMPORTED_AHEAD = (
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "transformers",
    # Also for probes of other engines: the ranks inherit these pages, and what a probe of one
    # configuration holds must not depend on which ones were probed before it.
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # which DeepSpeed imports with its first optimizer
    "trials.rank",
)


class Zygote:
    """Imports once, forks often. It never runs an operator and never touches CUDA itself.

    What its ranks leave behind comes to it, so it belongs in a process without other children.
    """

    def __init__(self, device: DeviceKind) -> None:
        adopt_orphans()
        quiet_libraries()
        if device == "cpu":
            give_back_from(engine_constants(0).cpu_mmap_threshold_bytes)
        os.environ["DS_ACCELERATOR"] = device
        self._device = device
        with self._importing():
            for module in IMPORTED_AHEAD:
                importlib.import_module(module)
        import transformers

        transformers.utils.logging.disable_progress_bar()

    def _importing(self) -> AbstractContextManager[None]:
        if self._device == "cpu":
            return contextlib.nullcontext()
        from trials.before_cuda import gpus_by_nvml

        return gpus_by_nvml()

    def prepare(self, request: ProbeRequest) -> None:
        """Import and compile what this probe's ranks will use. Raises OperatorUnavailable."""
        import torch

        with self._importing():
            load_operators(needed_operators(request))
            if request.model.hf_config is not None:
                from trials.model import model_class

                with contextlib.suppress(Exception):  # the ranks meet it again, and report it
                    model_class(request.model.hf_config)
        if torch.cuda.is_initialized():
            raise RuntimeError("CUDA was initialised in the process that forks: no rank could use it")

    def run(self, share: NodeShare, folder: Path, control: int | None = None) -> list[RankReport]:
        """Run one node's share of a probe to its end."""
        from trials.node import run_ranks
        from trials.rank import run_rank

        try:
            self.prepare(share.request)
        except OperatorUnavailable as error:
            return [
                RankReport(rank=rank, outcome=Outcome.INVALID, phase=Phase.START, reason=str(error))
                for rank in share.ranks
            ]
        return run_ranks(share, folder, run_rank, control)


def main() -> None:
    """Serve requests until stdin ends: `python -P -m trials.zygote cpu|cuda PARENT_PID`."""
    device, parent = sys.argv[1], int(sys.argv[2])
    die_with_parent(parent)
    # Answers have a pipe of their own: whatever a library prints goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    zygote = Zygote("cuda" if device == "cuda" else "cpu")
    while line := _read_line(0):
        if line == "cancel":  # of a probe that had just ended
            continue
        request = json.loads(line)
        reports = zygote.run(NodeShare.model_validate(request["share"]), Path(request["folder"]), control=0)
        print(json.dumps([r.model_dump(mode="json") for r in reports]), file=answers, flush=True)


def _read_line(descriptor: int) -> str | None:
    """Read up to a newline and not a byte further, so that select still sees what comes next."""
    line = bytearray()
    while byte := os.read(descriptor, 1):
        if byte == b"\n":
            return line.decode()
        line += byte
    return None


if __name__ == "__main__":
    main()
