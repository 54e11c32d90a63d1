"""What devices there are: on this machine, or in a running Ray cluster."""

import logging
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from autotune.errors import BadInput, ExecutionUnavailable
from autotune.hardware import catalog
from autotune.hardware.cpu import NETWORK_GB_PER_S, cpu_device, cpu_group, cpu_memory_bytes
from autotune.hardware.inventory import Inventory, NodeGroup
from autotune.hardware.nvml import LocalGpu, local_gpus
from autotune.signals import sigterm_kept

__all__ = ["cpu_memory_bytes", "detect", "local_gpus", "ray_cpu_group", "ray_devices"]

ACCELERATOR_RESOURCE = "accelerator_type:"
ACCELERATOR_LABEL = "ray.io/accelerator-type"
CONNECT_TIMEOUT_S = 5.0
KNOWN_S = 3.0
"""How long the nodes of a cluster are taken to be those that were seen: joining it takes tenths of a second,
for which all wait who ask a server for forecasts while they type."""

_known: dict[str, tuple[float, list[Mapping[str, Any]]]] = {}
"""Address → when its nodes were asked for last, and what they were."""
_asking = threading.Lock()
"""A process is in one cluster once: two threads of a server join it one after the other."""


def detect(ray_address: str | None = None) -> Inventory:
    """The devices of the Ray cluster at `ray_address`, which is where the probes would run; without one,
    this machine's GPUs or, last, its CPU.

    Raises ExecutionUnavailable where the cluster does not answer, BadInput where it has GPUs that it does
    not name.
    """
    if ray_address is not None:
        return ray_devices(ray_address)
    gpus = local_gpus()
    return inventory_of_gpus(gpus) if gpus else Inventory((cpu_group(),))


def inventory_of_gpus(gpus: Sequence[LocalGpu]) -> Inventory:
    """One node; a group for each kind of GPU, the kind with most memory in all first.

    A process can use one MIG instance, and NCCL joins none, so of these each kind counts once.
    """
    kinds: dict[str, list[LocalGpu]] = {}
    for local in gpus:
        kinds.setdefault(local.gpu.name, []).append(local)
    host_memory_bytes = cpu_memory_bytes()
    groups = []
    for same in kinds.values():
        smallest = min((local.gpu for local in same), key=lambda gpu: gpu.memory_bytes)
        entry = catalog.match(smallest.name)
        groups.append(
            NodeGroup(
                gpu=smallest,
                num_nodes=1,
                gpus_per_node=1 if same[0].is_mig else len(same),
                network_gb_per_s=entry.network_gb_per_s if entry else NETWORK_GB_PER_S / len(same),
                host_memory_bytes=host_memory_bytes,
            )
        )
    return Inventory(tuple(sorted(groups, key=_total_memory, reverse=True)))


def ray_devices(address: str) -> Inventory:
    """The GPUs of a running Ray cluster, or its CPUs where it has none."""
    return inventory_of_nodes(_ray_nodes(address))


def ray_cpu_group(address: str, num_nodes: int, ranks_per_node: int) -> NodeGroup | None:
    """The CPUs of a running Ray cluster with so many ranks on so many of its nodes; None where it has not
    so many nodes with a core for each rank.

    Raises ExecutionUnavailable where the cluster does not answer.
    """
    return cpu_group_of_nodes(_ray_nodes(address), num_nodes, ranks_per_node)


def _ray_nodes(address: str) -> list[Mapping[str, Any]]:
    with _asking, sigterm_kept():
        asked_at, nodes = _known.get(address, (-math.inf, []))
        if time.monotonic() - asked_at > KNOWN_S:
            nodes = _ray_nodes_of(address)
            _known[address] = time.monotonic(), nodes
        return nodes


def _ray_nodes_of(address: str) -> list[Mapping[str, Any]]:
    import ray

    ours = not ray.is_initialized()
    if ours:
        logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of the threads of a server
    try:
        if ours:
            _check_port(address)
            ray.init(address=address, log_to_driver=False, logging_level="error")
        nodes: list[Mapping[str, Any]] = ray.nodes()
    except (OSError, OverflowError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())
        raise ExecutionUnavailable(f"no Ray cluster answers at {address}: {reason:.200}") from error
    finally:
        if ours:
            ray.shutdown()
    return nodes


def _check_port(address: str) -> None:
    """Raise OSError where nothing listens: Ray itself would wait for it for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()


def inventory_of_nodes(nodes: Sequence[Mapping[str, Any]]) -> Inventory:
    """`ray.nodes()` as an inventory: equal nodes in one group, the group with most memory in all first."""
    alive = [node for node in nodes if node["Alive"]]
    with_gpus = [node for node in alive if node["Resources"].get("GPU", 0) >= 1]
    kinds = Counter(_gpus(node) for node in with_gpus)
    groups = [_gpu_group(name, gpus_per_node, number) for (name, gpus_per_node), number in kinds.items()]
    if not groups:
        ranks = Counter(_ranks(node) for node in alive if node["Resources"].get("CPU", 0) >= 1)
        groups = [_cpu_group(cores, memory_bytes, number) for (cores, memory_bytes), number in ranks.items()]
    if not groups:
        raise ExecutionUnavailable("the Ray cluster has no node with a GPU or a CPU")
    return Inventory(tuple(sorted(groups, key=_total_memory, reverse=True)))


def cpu_group_of_nodes(
    nodes: Sequence[Mapping[str, Any]], num_nodes: int, ranks_per_node: int
) -> NodeGroup | None:
    """Ranks on the nodes of `ray.nodes()` that have cores enough; any of these may get a probe, so each has
    the memory of the smallest.
    """
    ranks = [_ranks(node) for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    enough = [memory_bytes for cores, memory_bytes in ranks if cores >= ranks_per_node]
    return _cpu_group(ranks_per_node, min(enough), num_nodes) if len(enough) >= num_nodes else None


def _gpus(node: Mapping[str, Any]) -> tuple[str, int]:
    """Name and number of a node's GPUs."""
    resources, labels = node["Resources"], node.get("Labels") or {}
    names = [
        key.removeprefix(ACCELERATOR_RESOURCE) for key in resources if key.startswith(ACCELERATOR_RESOURCE)
    ]
    return next(iter(names), None) or labels.get(ACCELERATOR_LABEL, ""), int(resources["GPU"])


def _gpu_group(name: str, gpus_per_node: int, num_nodes: int) -> NodeGroup:
    entry = catalog.match(name)
    if entry is None:
        raise BadInput(
            f"the Ray cluster calls its GPUs {name!r}, which the catalogue does not know;"
            f" name them yourself, as in {num_nodes}x{gpus_per_node}xH100, or write an inventory file"
        )
    return NodeGroup(entry.gpu, num_nodes, gpus_per_node, entry.network_gb_per_s)


def _ranks(node: Mapping[str, Any]) -> tuple[int, int]:
    """Cores of a node, and its memory to the GiB: what is free differs a little between equal nodes."""
    resources = node["Resources"]
    memory_bytes = resources.get("memory", 0) + resources.get("object_store_memory", 0)
    return int(resources["CPU"]), max(1, int(memory_bytes) >> 30) << 30


def _cpu_group(cores: int, memory_bytes: int, num_nodes: int) -> NodeGroup:
    group = cpu_group(num_nodes, cores)
    return replace(group, gpu=cpu_device(memory_bytes // cores), host_memory_bytes=memory_bytes)


def _total_memory(group: NodeGroup) -> int:
    return group.world_size * group.gpu.memory_bytes
