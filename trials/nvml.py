"""What the driver knows of the GPUs, asked without CUDA.

NVML is opened for each question: its handles do not survive a fork.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def nvml() -> Iterator[Any]:
    """The module pynvml, initialised."""
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def visible_device(pynvml: Any, index: int) -> Any:
    """The handle of what CUDA will call device `index`, by CUDA_VISIBLE_DEVICES.

    Raises NVMLError where that names no whole GPU (MIG).
    """
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    name = visible[index] if visible else str(index)
    if name.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    return pynvml.nvmlDeviceGetHandleByUUID(name.encode())


def device_of_cuda(pynvml: Any, index: int) -> Any:
    """The handle of CUDA's device `index`, once CUDA is initialised."""
    uuid = torch.cuda.get_device_properties(index).uuid
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())


def driver_version() -> str:
    with nvml() as pynvml:
        return str(pynvml.nvmlSystemGetDriverVersion())


def free_bytes(index: int) -> int | None:
    """Of a whole GPU, before this process has a context on it; None where NVML cannot say."""
    with nvml() as pynvml:
        try:
            return int(pynvml.nvmlDeviceGetMemoryInfo(visible_device(pynvml, index)).free)
        except pynvml.NVMLError:
            return None


def compute_capability(index: int) -> tuple[int, int]:
    """Of a visible device; (0, 0) where NVML cannot say."""
    with nvml() as pynvml:
        try:
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(visible_device(pynvml, index))
        except pynvml.NVMLError:
            return 0, 0
    return int(major), int(minor)
