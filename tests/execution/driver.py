"""A driver that may be killed: `python -P driver.py local|ray request.json...`.

Runs the probes one after another on this machine, and prints the outcome of each.
"""

import sys
from pathlib import Path

from autotune.execution.executor import Executor, Layout
from autotune.execution.local import LocalExecutor
from trials.contract.messages import ProbeRequest

LAYOUT = Layout("cpu", num_nodes=1, ranks_per_node=2, num_slots=1)


def open_executor(kind: str) -> Executor:
    if kind == "local":
        return LocalExecutor(LAYOUT)
    from autotune.execution.ray import RayExecutor

    return RayExecutor(LAYOUT)


if __name__ == "__main__":
    with open_executor(sys.argv[1]) as executor:
        for path in sys.argv[2:]:
            request = ProbeRequest.parse(Path(path).read_bytes())
            print(executor.submit(request).result().outcome, flush=True)
