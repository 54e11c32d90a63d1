"""Probes on this machine keep what the Protocol promises."""

from contracts.executor import ProcessesContract

from autotune.execution.executor import Layout
from autotune.execution.local import LocalExecutor


class TestLocalExecutor(ProcessesContract):
    @classmethod
    def open(cls, num_slots: int) -> LocalExecutor:
        return LocalExecutor(Layout("cpu", num_nodes=1, ranks_per_node=1, num_slots=num_slots))
