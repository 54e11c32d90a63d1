"""The CPU as a device kind: one rank is one core with its part of the memory."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import psutil

from autotune.hardware.inventory import Gpu, NodeGroup

MIN_RANK_BYTES = 2 * 2**30
"""An interpreter with torch takes a third of a GiB; with less than this a rank trains nothing."""

# What one core does, by the widest instructions it has. The figures with AVX-512 and AMX are measured (torch
# 2.13, one thread of a 2.6 GHz Xeon: 1024² matmuls; a copy of 512 MiB; gloo all-reduce of 64 MiB between two
# ranks); the others are scaled from them by width. Rough constants until the first probe calibrates them.
TFLOPS: Mapping[str, tuple[tuple[str, float], ...]] = MappingProxyType(
    {
        "fp32": (("avx512f", 0.18), ("avx2", 0.09), ("", 0.03)),
        "bf16": (("amx_bf16", 1.25), ("avx512_bf16", 0.36), ("", 0.03)),
        "fp16": (("avx512_fp16", 0.17), ("", 0.03)),
    }
)
"""Precision → (instruction set, rate), the first that the core has."""
BANDWIDTH_GB_PER_S = 13.5
LINK_GB_PER_S = 1.45
NETWORK_GB_PER_S = 1.25
"""A 10 Gbit/s network, shared by the ranks of a node."""
SOURCE = "measured on one core of a 2.6 GHz Xeon, scaled by instruction set: rough until calibrated"


def cpu_memory_bytes(root: Path = Path("/")) -> int:
    """Memory that this process may use: the least of the RAM and the limits of its cgroups (v1 or v2)."""
    limits = _cgroup_values(root, "memory", "memory.max", "memory.limit_in_bytes")
    return min([psutil.virtual_memory().total, *(int(limit) for limit in limits if limit.isdecimal())])


def cpu_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: its affinity, less where its cgroups have a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for value in _cgroup_values(root, "cpu", "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
        quota, _, period = value.partition(" ")
        if quota.isdecimal() and period.isdecimal():
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def cpu_group(num_nodes: int = 1, ranks_per_node: int | None = None) -> NodeGroup:
    """Nodes like this machine; by default with a rank for each core that has memory enough."""
    memory_bytes = cpu_memory_bytes()
    ranks = ranks_per_node or max(1, min(cpu_cores(), memory_bytes // MIN_RANK_BYTES))
    return NodeGroup(
        gpu=cpu_device(memory_bytes // ranks),
        num_nodes=num_nodes,
        gpus_per_node=ranks,
        network_gb_per_s=NETWORK_GB_PER_S / ranks,
        host_memory_bytes=memory_bytes,
    )


def cpu_device(memory_bytes: int) -> Gpu:
    """One rank with `memory_bytes` on a core like this machine's."""
    flags = cpu_flags()
    return Gpu(
        name="CPU",
        kind="cpu",
        memory_bytes=memory_bytes,
        tflops={
            precision: next(rate for flag, rate in table if not flag or flag in flags)
            for precision, table in TFLOPS.items()
        },
        bandwidth_gb_per_s=BANDWIDTH_GB_PER_S,
        link_gb_per_s=LINK_GB_PER_S,
        pcie_gb_per_s=BANDWIDTH_GB_PER_S,
        features=frozenset({"cpu", "bf16", "fp16"}),
        source=SOURCE,
    )


def cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """Instruction sets of the first core; empty where Linux does not say."""
    try:
        text = (root / "proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    return frozenset(next(lines, "").partition(":")[2].split())


def _cgroup_values(root: Path, controller: str, v2_file: str, *v1_files: str) -> Iterator[str]:
    """The contents of a control file in this process's cgroup and all above it; of v1 files side by side."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, files = root / "sys/fs/cgroup", [v2_file]
        elif controller in controllers.split(","):
            mount, files = root / "sys/fs/cgroup" / controller, list(v1_files)
        else:
            continue
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(mount):
                break
            try:
                yield " ".join((folder / file).read_text().strip() for file in files)
            except OSError:  # a namespace shows the process only its own part of the tree
                continue
