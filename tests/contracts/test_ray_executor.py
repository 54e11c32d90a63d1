"""Probes on a Ray cluster keep what the Protocol promises."""

from contracts.executor import ProcessesContract

from autotune.execution.executor import Layout
from autotune.execution.ray import RayExecutor


class TestRayExecutor(ProcessesContract):
    @classmethod
    def open(cls, num_slots: int) -> RayExecutor:
        return RayExecutor(Layout("cpu", num_nodes=1, ranks_per_node=1, num_slots=num_slots))
