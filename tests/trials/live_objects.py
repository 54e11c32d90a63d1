"""What number formats a training step really uses: `python -P live_objects.py REQUESTS.json FOUND.json`.

Runs each request on real ranks and looks at the engine's objects during one step of the first rank.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import trials.rank
from trials.contract.messages import NodeShare, ProbeRequest
from trials.contract.outcome import Outcome
from trials.contract.rendezvous import free_port
from trials.engines.zero import ZeroEngine
from trials.measure import Stepper
from trials.node import run_ranks
from trials.zygote import Zygote

REDUCTIONS = ("allreduce", "reduce_scatter", "reduce_")
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def formats(values: Iterable[Any]) -> list[str]:
    """The floating-point formats of the tensors among `values`; counters are scalars and not meant."""
    tensors = [v for v in values if isinstance(v, Tensor) and v.is_floating_point() and v.dim()]
    return sorted({NAMES[t.dtype] for t in tensors})


class Reductions(TorchDispatchMode):
    """Notes what is summed over the ranks, by whatever library."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d" and func._opname.lstrip("_").startswith(REDUCTIONS):
            self.tensors += [t for t in tree_leaves(args) if isinstance(t, Tensor) and t.numel() > 1]
        return func(*args, **(kwargs or {}))


def found_in(engine: Any, step: Callable[[], object]) -> dict[str, list[str]]:
    """Role → number formats; `step` is one optimizer step of `engine`."""
    zero = engine.engine.optimizer if isinstance(engine, ZeroEngine) else None
    model: nn.Module = engine.model if zero is None else engine.engine.module
    parameters = list(model.parameters())
    computed: list[Tensor] = []
    linear = next(m for name, m in model.named_modules() if "layers" in name and isinstance(m, nn.Linear))
    linear.register_forward_hook(lambda module, inputs, output: computed.append(output.detach()))

    gradients: list[Tensor | None] = []
    optimizer = engine.optimizer if zero is None else zero
    update = optimizer.step

    def look_and_update(*arguments: Any, **options: Any) -> Any:
        masters = [] if zero is None else masters_of(zero)
        averaged = [] if zero is None else tree_leaves(list(zero.averaged_gradients.values()))
        gradients.extend([*(p.grad for p in (*parameters, *masters)), *averaged])
        return update(*arguments, **options)

    optimizer.step = look_and_update
    with Reductions() as reductions:
        step()
    states = (engine.optimizer if zero is None else zero.optimizer).state
    return {
        "stored weights": formats(getattr(p, "ds_tensor", p) for p in parameters),
        "compute": formats(computed),
        "gradients": formats(gradients),
        "reduction": formats(reductions.tensors),
        "master": formats([] if zero is None else masters_of(zero)),
        "optimizer states": formats(tree_leaves(list(states.values()))),
    }


def masters_of(zero: Any) -> list[nn.Parameter]:
    stage_1_and_2 = getattr(zero, "single_partition_of_fp32_groups", None)
    return list(stage_1_and_2 or zero.fp32_partitioned_groups_flat)


def run_and_look(share: NodeShare, rank: int, journal: Path) -> Any:
    def look(stepper: Stepper, *_: Any) -> None:
        found = found_in(stepper._engine, stepper.step)
        if rank == 0:
            journal.with_name("found.json").write_text(json.dumps(found))

    trials.rank.measure = look
    return trials.rank.run_rank(share, rank, journal)


def main() -> None:
    requests, target = map(Path, sys.argv[1:])
    zygote = Zygote("cpu")
    found = {}
    for name, request in json.loads(requests.read_text()).items():
        share = NodeShare(request=ProbeRequest.parse(request), rendezvous_port=free_port())
        with tempfile.TemporaryDirectory() as folder:
            zygote.prepare(share.request)
            reports = run_ranks(share, Path(folder), run_and_look)
            for report in reports:
                assert report.outcome == Outcome.MEASURED, report.detail
            found[name] = json.loads((Path(folder) / "found.json").read_text())
    target.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
