"""`--gpus` as the user writes it → an inventory."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.errors import BadInput
from autotune.hardware import catalog
from autotune.hardware.cpu import cpu_group
from autotune.hardware.detect import detect, ray_cpu_group
from autotune.hardware.inventory import MAX_GPUS_PER_NODE, MAX_NODES, Inventory, NodeGroup
from autotune.hardware.inventory_file import READERS, inventory_of, read_inventory

FORMS = (
    re.compile(r"(?P<nodes>[0-9]+)x(?P<gpus>[0-9]+)x(?P<name>.+)", re.IGNORECASE),
    re.compile(r"(?P<gpus>[0-9]+)x(?P<name>.+)", re.IGNORECASE),
    re.compile(r"(?P<name>[^:]+):(?P<gpus>[0-9]+)"),
    re.compile(r"(?P<name>[^:]+)"),
)
"""`2x8xH100`, `8xH100`, `H100:8`, and one GPU by its name."""


def parse_inventory(gpus: str | Mapping[str, Any], ray_address: str | None = None) -> Inventory:
    """Read an inventory file, or what `sent_inventory` does. Raises as that does."""
    if isinstance(gpus, str) and (path := Path(gpus.strip())).suffix.lower() in READERS:
        return read_inventory(path)
    return sent_inventory(gpus, ray_address)


def sent_inventory(gpus: str | Mapping[str, Any], ray_address: str | None = None) -> Inventory:
    """Read `auto`, `H100:8`, `2x8xH100-80GB` (nodes × GPUs of a node × GPU), `cpu:2`, or an object: what an
    inventory file holds, or what `Inventory.to_dict` gave. Whatever somebody sends, no file is looked at.

    `auto` and `cpu` ask the Ray cluster at `ray_address`, else this machine; a cluster that lacks such nodes
    is for the executor to refuse. Raises ExecutionUnavailable where the cluster does not answer, and BadInput
    naming the nearest GPU or saying which count is wrong.
    """
    if not isinstance(gpus, str):
        return Inventory.from_dict(gpus) if "groups" in gpus else inventory_of(gpus, "the inventory", "given")
    text = gpus.strip()
    if text.lower() == "auto":
        return detect(ray_address)
    match = next(filter(None, (form.fullmatch(text) for form in FORMS)), None)
    if match is None:
        raise BadInput(
            f"{text[:80]!r} names no GPUs; write auto, H100:8, 2x8xH100 (nodes x GPUs x kind), cpu:2,"
            " or give an inventory of your own"
        )
    parts = {"nodes": "1", "gpus": "1"} | match.groupdict()
    num_nodes = _count(parts["nodes"], MAX_NODES, "nodes")
    gpus_per_node = _count(parts["gpus"], MAX_GPUS_PER_NODE, "GPUs per node")
    return Inventory((_group(parts["name"], num_nodes, gpus_per_node, ray_address),))


def _group(name: str, num_nodes: int, gpus_per_node: int, ray_address: str | None) -> NodeGroup:
    if name.lower() == "cpu":
        of_ray = ray_address and ray_cpu_group(ray_address, num_nodes, gpus_per_node)
        return of_ray or cpu_group(num_nodes, gpus_per_node)
    entry = catalog.find(name)
    return NodeGroup(entry.gpu, num_nodes, gpus_per_node, entry.network_gb_per_s)


def _count(digits: str, most: int, what: str) -> int:
    count = int(digits[:12])
    if not 1 <= count <= most:
        raise BadInput(f"there must be 1 to {most:,} {what}, not {digits[:12]}")
    return count
