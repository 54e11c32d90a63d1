"""An inventory as a file, or as the object that a file holds: node groups in YAML, JSON or TOML.

nodes:
  - count: 2                  # how many such nodes; 1 if left out
    gpus_per_node: 8
    gpu: H100-80GB            # a name of the catalogue, or an own description
    network_gb_per_s: 50      # between nodes, per GPU and direction
    host_memory: 2TB          # CPU memory of one node
  - gpus_per_node: 4
    gpu: {name: Mine, memory: 48GiB, tflops: {fp32: 40, bf16: 160}, bandwidth_gb_per_s: 960,
          link_gb_per_s: 32}
"""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field, field_validator

from autotune.errors import BadInput
from autotune.hardware import catalog
from autotune.hardware.cpu import cpu_group
from autotune.hardware.inventory import (
    MAX_GPUS_PER_NODE,
    MAX_GROUPS,
    MAX_NODES,
    Gpu,
    Inventory,
    NodeGroup,
)
from autotune.hardware.sizes import parse_size
from search_spaces.documents import parse_json, parse_yaml
from trials.contract.capabilities import Feature
from trials.contract.message import ContractError, Message

MAX_BYTES = 1 << 20
ASSUMED_NETWORK_GB_PER_S = 3.1
"""For a GPU that is not in the catalogue: 100 Gbit/s shared by four."""

Rate = Annotated[float, Field(strict=True, gt=0, le=1e9, allow_inf_nan=False)]
Size = str | Annotated[int, Field(strict=True)]
"""As `parse_size` reads it, or plain bytes."""


class TensorRates(Message):
    """Dense 1e12 operations per second; a format left out is one that the GPU cannot compute in."""

    fp32: Rate
    tf32: Rate | None = None
    fp16: Rate | None = None
    bf16: Rate | None = None
    fp8: Rate | None = None


class OwnGpu(Message):
    """A GPU that is not in the catalogue."""

    name: str = Field(min_length=1, max_length=80)
    memory: Size
    tflops: TensorRates
    bandwidth_gb_per_s: Rate
    link_gb_per_s: Rate
    pcie_gb_per_s: Rate = 32.0
    """As PCIe 4.0 with sixteen lanes."""

    def gpu(self, source: str) -> Gpu:
        rates = self.tflops.model_dump(exclude_none=True)
        formats: tuple[Feature, ...] = ("fp16", "bf16", "fp8")
        return Gpu(
            name=self.name,
            kind="cuda",
            memory_bytes=parse_size(str(self.memory)),
            tflops=rates,
            bandwidth_gb_per_s=self.bandwidth_gb_per_s,
            link_gb_per_s=self.link_gb_per_s,
            pcie_gb_per_s=self.pcie_gb_per_s,
            features=frozenset({"cuda", *(feature for feature in formats if feature in rates)}),
            source=source,
        )


class Nodes(Message):
    count: int = Field(default=1, strict=True, ge=1, le=MAX_NODES)
    gpus_per_node: int = Field(strict=True, ge=1, le=MAX_GPUS_PER_NODE)
    gpu: str | OwnGpu
    network_gb_per_s: Rate | None = None
    host_memory: Size | None = None

    @field_validator("gpu", mode="before")
    @classmethod
    def _described(cls, gpu: Any) -> Any:
        """Read a description as one, so that what is wrong in it is said of it and not of a name."""
        return OwnGpu.parse(gpu) if isinstance(gpu, Mapping) else gpu

    def group(self, source: str) -> NodeGroup:
        host_memory_bytes = None if self.host_memory is None else parse_size(str(self.host_memory))
        if isinstance(self.gpu, OwnGpu):
            gpu, network = self.gpu.gpu(source), ASSUMED_NETWORK_GB_PER_S
        elif self.gpu.lower() == "cpu":
            like_here = cpu_group(self.count, self.gpus_per_node)
            gpu, network = like_here.gpu, like_here.network_gb_per_s
            host_memory_bytes = host_memory_bytes or like_here.host_memory_bytes
        else:
            entry = catalog.find(self.gpu)
            gpu, network = entry.gpu, entry.network_gb_per_s
        return NodeGroup(
            gpu=gpu,
            num_nodes=self.count,
            gpus_per_node=self.gpus_per_node,
            network_gb_per_s=self.network_gb_per_s or network,
            host_memory_bytes=host_memory_bytes,
        )


class InventoryFile(Message):
    nodes: tuple[Nodes, ...] = Field(min_length=1, max_length=MAX_GROUPS)


READERS: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {".yaml": parse_yaml, ".yml": parse_yaml, ".json": parse_json, ".toml": tomllib.loads}
)


def read_inventory(path: Path) -> Inventory:
    """Read an inventory file; raise BadInput where it cannot be read or says something unknown or absurd."""
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise BadInput(f"{path} is larger than 1 MiB, so it is not an inventory")
        content = READERS[path.suffix.lower()](text.decode())
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except RecursionError:
        raise BadInput(f"{path} is nested too deeply") from None
    except ValueError as error:  # of YAML, JSON, TOML and Unicode
        raise BadInput(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise BadInput(f'{path} must hold "nodes", a list of node groups')
    return inventory_of(content, str(path), f"given in {path.name}")


def inventory_of(content: Mapping[str, Any], where: str, source: str) -> Inventory:
    """The inventory that a file's content describes: `where` is named in what BadInput says, `source` where
    its figures are from.
    """
    try:
        nodes = InventoryFile.parse(content).nodes
    except ContractError as error:
        raise BadInput(f"{where}: {error!s:.500}") from None
    return Inventory(tuple(group.group(source) for group in nodes))
