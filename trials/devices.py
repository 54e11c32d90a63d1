"""The device kinds a rank can run on, behind one Protocol: memory, clock, ceiling, names."""

import platform
import re
from pathlib import Path
from typing import Protocol

import torch

from trials.contract.capabilities import Feature
from trials.contract.messages import DeviceKind, MemoryPeaks
from trials.nvml import device_of_cuda, driver_version, free_bytes, nvml


class DeviceMissing(Exception):
    """The machine has not the device that the rank is to run on."""


class Device(Protocol):
    torch_device: torch.device
    backend: str
    """Of torch.distributed."""

    @property
    def features(self) -> frozenset[Feature]: ...
    @property
    def name(self) -> str: ...
    @property
    def driver(self) -> str | None: ...
    def enforce_ceiling(self, ceiling_bytes: int) -> None:
        """Make allocations beyond the ceiling fail, where the device has an allocator that can."""

    def synchronise(self) -> None: ...
    def reset_peaks(self) -> None: ...
    def peaks(self) -> MemoryPeaks: ...
    def throttled(self) -> str | None:
        """Why the device runs below its clock right now, or None."""


class CpuDevice:
    """A core of this machine; memory is the process's resident set."""

    backend = "gloo"

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")
        self._baseline_bytes = _status_bytes("VmRSS")

    @property
    def features(self) -> frozenset[Feature]:
        return frozenset({"cpu", "bf16", "fp16"})

    @property
    def name(self) -> str:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
        return platform.machine()

    @property
    def driver(self) -> str | None:
        return None

    def enforce_ceiling(self, ceiling_bytes: int) -> None:
        pass  # watched from outside (trials.ceiling)

    def synchronise(self) -> None:
        pass

    def reset_peaks(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (man 5 proc)

    def peaks(self) -> MemoryPeaks:
        return MemoryPeaks(device_bytes=_status_bytes("VmHWM"), baseline_bytes=self._baseline_bytes)

    def throttled(self) -> str | None:
        return None


class CudaDevice:
    """The GPU that is this rank's; memory is what the driver says this process holds."""

    backend = "nccl"

    def __init__(self, local_rank: int) -> None:
        if local_rank >= (count := torch.cuda.device_count()):
            raise DeviceMissing(f"there is no CUDA device {local_rank}; this process sees {count}")
        self.torch_device = torch.device("cuda", local_rank)
        torch.cuda.set_device(self.torch_device)
        before = free_bytes(local_rank)
        torch.zeros(1, device=self.torch_device)  # creates the context
        after, self._total_bytes = torch.cuda.mem_get_info(self.torch_device)
        self._other_bytes = self._total_bytes - before if before is not None else 0
        """Held by others on the GPU before this process came."""
        self._baseline_bytes = self._total_bytes - after - self._other_bytes

    @property
    def features(self) -> frozenset[Feature]:
        capability = torch.cuda.get_device_capability(self.torch_device)
        found: set[Feature] = {"cuda", "fp16"}
        if capability >= (8, 0):
            found.add("bf16")
        if capability >= (8, 9):
            found.add("fp8")
        return frozenset(found)

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.torch_device)

    @property
    def driver(self) -> str | None:
        return driver_version()

    def enforce_ceiling(self, ceiling_bytes: int) -> None:
        room = max(0, ceiling_bytes - self._baseline_bytes)
        torch.cuda.set_per_process_memory_fraction(min(1.0, room / self._total_bytes), self.torch_device)

    def synchronise(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def reset_peaks(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.torch_device)

    def peaks(self) -> MemoryPeaks:
        stats = torch.cuda.memory_stats(self.torch_device)
        reserved_now = stats["reserved_bytes.all.current"]
        reserved_peak = stats["reserved_bytes.all.peak"]
        free, total = torch.cuda.mem_get_info(self.torch_device)
        outside_allocator = max(0, total - free - self._other_bytes - reserved_now)
        return MemoryPeaks(
            device_bytes=reserved_peak + outside_allocator,
            allocated_bytes=stats["allocated_bytes.all.peak"],
            reserved_bytes=reserved_peak,
            allocator_retries=stats["num_alloc_retries"],
            baseline_bytes=self._baseline_bytes,
        )

    def throttled(self) -> str | None:
        with nvml() as pynvml:
            handle = device_of_cuda(pynvml, self.torch_device.index)
            reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
            for name in ("SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown"):
                if reasons & getattr(pynvml, f"nvmlClocksEventReason{name}", 0):
                    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
        return None


def open_device(kind: DeviceKind, local_rank: int) -> Device:
    return CpuDevice() if kind == "cpu" else CudaDevice(local_rank)


def _status_bytes(field: str) -> int:
    """A size from /proc/self/status, which counts in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
