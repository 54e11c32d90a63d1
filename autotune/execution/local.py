"""Probes on this machine, without a cluster."""

import time
from collections.abc import Sequence

from autotune.errors import NotHere
from autotune.execution.executor import LaneExecutor, Layout
from autotune.execution.supervisor import Supervisor, SupervisorLost, interrupted
from trials.contract.merge import merge
from trials.contract.messages import NodeShare, ProbeRequest, ProbeResult, Versions
from trials.contract.rendezvous import free_port


class LocalLane:
    """A supervised zygote of this process's own."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    def run(self, request: ProbeRequest) -> ProbeResult:
        started = time.monotonic()
        share = NodeShare(request=request, rendezvous_port=free_port())
        try:
            reports = self.supervisor.run(share)
        except SupervisorLost as error:
            reports = interrupted(share, str(error))
        return merge(request, reports, time.monotonic() - started)

    def log(self) -> str:
        return self.supervisor.log()

    def versions(self) -> Versions | None:
        return self.supervisor.versions()

    def cancel(self, probe_id: str) -> None:
        self.supervisor.cancel(probe_id)

    def close(self) -> None:
        self.supervisor.close()


class LocalExecutor(LaneExecutor):
    """One lane per slot; each lane of a GPU machine has GPUs of its own."""

    def __init__(self, layout: Layout, gpu_ids: Sequence[str] = ()) -> None:
        """`gpu_ids`: what CUDA_VISIBLE_DEVICES calls the GPUs to use, enough for every slot.

        Raises NotHere for probes that need more than one node.
        """
        if layout.num_nodes > 1:
            raise NotHere(
                f"a probe over {layout.num_nodes} nodes needs a cluster: "
                "use --executor ray with --ray-address"
            )
        self.lanes = [LocalLane(Supervisor(layout.device, gpus)) for gpus in _shares(layout, gpu_ids)]
        super().__init__(self.lanes)


def _shares(layout: Layout, gpu_ids: Sequence[str]) -> list[str | None]:
    if layout.device == "cpu":
        return [None] * layout.num_slots
    size = layout.ranks_per_node
    return [",".join(gpu_ids[slot * size : (slot + 1) * size]) for slot in range(layout.num_slots)]
