"""The inventory: which devices, in which nodes, with which links."""

from dataclasses import dataclass

from trials.contract.capabilities import Feature
from trials.contract.messages import DeviceKind


@dataclass(frozen=True)
class Gpu:
    """One kind of device. Rates are per device; `tflops` are dense, with fp32 accumulation.

    A CPU "device" is one rank's share of the machine: a core and its part of the memory.
    """

    name: str
    kind: DeviceKind
    memory_bytes: int
    tflops: dict[str, float]
    """Precision (`fp32`, `tf32`, `fp16`, `bf16`, `fp8`) → 1e12 floating-point operations per second."""
    bandwidth_gb_per_s: float
    """Device memory."""
    link_gb_per_s: float
    """To the other devices of the node, per direction."""
    pcie_gb_per_s: float
    """To the CPU's memory, per direction."""
    features: frozenset[Feature]
    source: str
    """Where the figures are from."""


@dataclass(frozen=True)
class NodeGroup:
    """`num_nodes` equal nodes."""

    gpu: Gpu
    num_nodes: int
    gpus_per_node: int
    network_gb_per_s: float
    """Between nodes, per device and direction."""
    host_memory_bytes: int | None = None
    """CPU memory of one node."""

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.gpus_per_node


@dataclass(frozen=True)
class Inventory:
    groups: tuple[NodeGroup, ...]

    @property
    def group(self) -> NodeGroup:
        """The group a job trains on: the first; mixed groups are planned one by one."""
        return self.groups[0]
