"""The inventory: which devices, in which nodes, with which links."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError

from autotune.errors import BadInput
from autotune.hardware.sizes import MAX_BYTES
from trials.contract.capabilities import Feature
from trials.contract.message import sentence
from trials.contract.messages import DeviceKind

MAX_NODES = 65_536
MAX_GPUS_PER_NODE = 1024
MAX_GROUPS = 64

Bytes = Annotated[int, Field(ge=1, le=MAX_BYTES)]
Rate = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Gpu:
    """One kind of device. Rates are per device; `tflops` are dense, with fp32 accumulation.

    A CPU "device" is one rank's share of the machine: a core and its part of the memory.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: Annotated[str, Field(min_length=1, max_length=80)]
    kind: DeviceKind
    memory_bytes: Bytes
    tflops: dict[str, Rate]
    """Precision (`fp32`, `tf32`, `fp16`, `bf16`, `fp8`) → 1e12 floating-point operations per second."""
    bandwidth_gb_per_s: Rate
    """Device memory."""
    link_gb_per_s: Rate
    """To the other devices of the node, per direction."""
    pcie_gb_per_s: Rate
    """To the CPU's memory, per direction."""
    features: Annotated[frozenset[Feature], PlainSerializer(sorted)]
    source: str
    """Where the figures are from."""

    @property
    def links_over_pcie(self) -> bool:
        """Whether PCIe is all that the devices of a node have between them."""
        return self.link_gb_per_s <= self.pcie_gb_per_s


@dataclass(frozen=True)
class NodeGroup:
    """`num_nodes` equal nodes."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    gpu: Gpu
    num_nodes: Annotated[int, Field(ge=1, le=MAX_NODES)]
    gpus_per_node: Annotated[int, Field(ge=1, le=MAX_GPUS_PER_NODE)]
    network_gb_per_s: Rate
    """Between nodes, per device and direction."""
    host_memory_bytes: Bytes | None = None
    """CPU memory of one node."""

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.gpus_per_node

    def __str__(self) -> str:
        nodes = f"{self.num_nodes} × " if self.num_nodes > 1 else ""
        return f"{nodes}{self.gpus_per_node} × {self.gpu.name}"


@dataclass(frozen=True)
class Inventory:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    groups: Annotated[tuple[NodeGroup, ...], Field(min_length=1, max_length=MAX_GROUPS)]

    def __str__(self) -> str:
        return " + ".join(map(str, self.groups))

    @property
    def group(self) -> NodeGroup:
        """The group a job trains on: the first; mixed groups are planned one by one."""
        return self.groups[0]

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it; `from_dict` gives an equal inventory back."""
        stored: dict[str, Any] = ADAPTER.dump_python(self, mode="json")
        return stored

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Inventory":
        """Raise BadInput where `stored` is not what `to_dict` gave."""
        try:
            return ADAPTER.validate_python(stored)
        except ValidationError as error:
            raise BadInput(f"not an inventory: {sentence(error)}") from error


ADAPTER = TypeAdapter(Inventory)
