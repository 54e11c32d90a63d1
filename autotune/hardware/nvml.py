"""The GPUs that a process on this machine would see, asked of NVML without touching CUDA."""

# ruff: noqa: N802, N815 - the Protocol has the names of pynvml

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from autotune.hardware import catalog
from autotune.hardware.inventory import Gpu
from trials.contract.capabilities import Feature

TENSOR_SPEEDUP = (
    ((11, 0), 2.0),
    ((10, 0), 28.0),
    ((9, 0), 14.0),
    ((8, 6), 2.0),
    ((8, 0), 16.0),
    ((7, 5), 4.0),
    ((7, 0), 8.0),
    ((0, 0), 1.0),
)
"""Compute capability from → 16-bit matmuls with fp32 accumulation over plain fp32; of the slower cards."""

FEATURES: tuple[tuple[tuple[int, int], Feature], ...] = (
    ((0, 0), "cuda"),
    ((7, 0), "fp16"),
    ((8, 0), "bf16"),
    ((8, 9), "fp8"),
)
"""Compute capability from → what the tensor cores know."""

PCIE4_GB_PER_S, PCIE3_GB_PER_S = 32.0, 16.0


class Nvml(Protocol):
    """The part of the module `pynvml` that is used; handles are opaque."""

    NVMLError: type[Exception]
    NVML_CLOCK_SM: int
    NVML_CLOCK_MEM: int
    NVML_DEVICE_MIG_ENABLE: int
    nvmlMemory_v2: int

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...
    def nvmlDeviceGetUUID(self, handle: Any) -> str: ...
    def nvmlDeviceGetName(self, handle: Any) -> str: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Any, version: int | None = None) -> Any: ...
    def nvmlDeviceGetCudaComputeCapability(self, handle: Any) -> Sequence[int]: ...
    def nvmlDeviceGetMigMode(self, handle: Any) -> Sequence[int]: ...
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int: ...
    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Any, index: int) -> Any: ...
    def nvmlDeviceGetAttributes(self, device: Any) -> Any: ...
    def nvmlDeviceGetNumGpuCores(self, device: Any) -> int: ...
    def nvmlDeviceGetMaxClockInfo(self, handle: Any, type: int) -> int: ...
    def nvmlDeviceGetMemoryBusWidth(self, device: Any) -> int: ...


@dataclass(frozen=True)
class LocalGpu:
    """A GPU, or an instance of one under MIG, that a process can compute on."""

    uuid: str
    index: int
    """NVML's, of the GPU that it is or is part of."""
    gpu: Gpu
    is_mig: bool = False

    @property
    def visible_as(self) -> str:
        """Its name in CUDA_VISIBLE_DEVICES: a number where there is one, for DeepSpeed reads no other."""
        return self.uuid if self.is_mig else str(self.index)


def local_gpus(nvml: Nvml | None = None, environment: Mapping[str, str] = os.environ) -> tuple[LocalGpu, ...]:
    """What CUDA_VISIBLE_DEVICES leaves visible of this machine's GPUs, in its order.

    A GPU in MIG mode counts as its instances. Without a driver there are none. Indices are NVML's, which
    are those of CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    nvml = nvml or _library()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        devices = [_device(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    finally:
        nvml.nvmlShutdown()
    return _visible(devices, environment.get("CUDA_VISIBLE_DEVICES"))


def _library() -> Nvml:
    import pynvml

    return cast(Nvml, pynvml)


@dataclass(frozen=True)
class _Device:
    uuid: str
    computing: tuple[LocalGpu, ...]
    """The device itself, or its MIG instances."""


def _device(nvml: Nvml, index: int) -> _Device:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        return _Device(nvml.nvmlDeviceGetUUID(handle), _computing(nvml, handle, index))
    except nvml.NVMLError:  # a GPU that has fallen off the bus keeps its index and computes nothing
        return _Device(f"lost {index}", ())


def _visible(devices: Sequence[_Device], chosen: str | None) -> tuple[LocalGpu, ...]:
    """Apply CUDA_VISIBLE_DEVICES as CUDA does: up to the first unknown entry; nothing, if one comes twice."""
    if chosen is None:
        return tuple(gpu for device in devices for gpu in device.computing)
    visible: list[LocalGpu] = []
    for entry in chosen.split(","):
        found = _resolved(devices, entry.strip())
        if found is None:
            break
        if found in visible:
            return ()
        visible.append(found)
    return tuple(visible)


def _resolved(devices: Sequence[_Device], entry: str) -> LocalGpu | None:
    if entry.startswith(("GPU-", "MIG-")):
        whole = [device.computing[:1] for device in devices if device.uuid.startswith(entry)]
        parts = [
            (gpu,)
            for device in devices
            for gpu in device.computing
            if gpu.is_mig and gpu.uuid.startswith(entry)
        ]
        matches = [*whole, *parts]
        return matches[0][0] if len(matches) == 1 and matches[0] else None
    number = re.match(r"[+-]?[0-9]+", entry)  # like strtoul, which reads `1gpu` as 1
    index = int(number[0]) if number else -1
    if not 0 <= index < len(devices):
        return None
    return next(iter(devices[index].computing), None)


def _computing(nvml: Nvml, handle: Any, index: int) -> tuple[LocalGpu, ...]:
    gpu = _gpu(nvml, handle)
    try:
        mode, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # most GPUs know no MIG
        mode = 0
    if mode != nvml.NVML_DEVICE_MIG_ENABLE:
        return (LocalGpu(nvml.nvmlDeviceGetUUID(handle), index, gpu),)
    most = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    instances = []
    for place in range(most):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except nvml.NVMLError:  # no instance in this place
            continue
        instances.append(
            LocalGpu(nvml.nvmlDeviceGetUUID(instance), index, _share(nvml, instance, gpu, most), is_mig=True)
        )
    return tuple(instances)


def _share(nvml: Nvml, instance: Any, whole: Gpu, most_slices: int) -> Gpu:
    """The part of a GPU that a MIG instance is: compute by its slices, bandwidth by its memory."""
    slices = nvml.nvmlDeviceGetAttributes(instance).gpuInstanceSliceCount
    memory_bytes = _memory_bytes(nvml, instance)
    return replace(
        whole,
        name=f"{whole.name} MIG {slices}g",
        memory_bytes=memory_bytes,
        tflops={precision: rate * slices / most_slices for precision, rate in whole.tflops.items()},
        bandwidth_gb_per_s=whole.bandwidth_gb_per_s * min(1.0, memory_bytes / whole.memory_bytes),
    )


def _memory_bytes(nvml: Nvml, handle: Any) -> int:
    """What programs can have: the total less what the driver keeps, where it says how much that is."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
    except nvml.NVMLError:  # drivers before 510
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    return int(memory.total - memory.reserved)


def _gpu(nvml: Nvml, handle: Any) -> Gpu:
    """The device's row in the catalogue with the memory it really has; else what NVML lets one estimate."""
    name, memory_bytes = nvml.nvmlDeviceGetName(handle), _memory_bytes(nvml, handle)
    entry = catalog.match(name)
    if entry is not None:
        return replace(entry.gpu, memory_bytes=memory_bytes)
    capability = tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle))
    clock_hz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6
    fp32 = nvml.nvmlDeviceGetNumGpuCores(handle) * 2 * clock_hz / 1e12
    features = frozenset(feature for since, feature in FEATURES if capability >= since)
    half = fp32 * next(speedup for since, speedup in TENSOR_SPEEDUP if capability >= since)
    rates = {"fp32": fp32, "fp16": half, "bf16": half, "fp8": 2 * half}
    memory_hz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1e6
    pcie = PCIE4_GB_PER_S if capability >= (8, 0) else PCIE3_GB_PER_S
    return Gpu(
        name=name.removeprefix("NVIDIA "),
        kind="cuda",
        memory_bytes=memory_bytes,
        tflops={precision: rate for precision, rate in rates.items() if precision in {"fp32", *features}},
        bandwidth_gb_per_s=2 * memory_hz * nvml.nvmlDeviceGetMemoryBusWidth(handle) / 8 / 1e9,
        link_gb_per_s=pcie,
        pcie_gb_per_s=pcie,
        features=features,
        source="estimated from the cores, clocks and bus width that NVML reports: rough until calibrated",
    )
