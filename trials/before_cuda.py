"""Imports that look at the GPU, in a process that must not initialise CUDA since it will fork."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils import _triton

from trials.nvml import compute_capability

LEAST_FOR_TRITON = (7, 0)


@contextmanager
def gpus_by_nvml() -> Iterator[None]:
    """What torchao and DeepSpeed ask of the GPUs while they are imported or compiled is answered by NVML.

    With CUDA initialised here, no forked rank could use it. The answers are not kept: torch itself asks
    again, in each rank.
    """

    def get_device_capability(device: Any = None) -> tuple[int, int]:
        index = torch.device(device).index if isinstance(device, str | torch.device) else device
        return compute_capability(index or 0)

    def has_triton() -> bool:
        is_there = _triton.has_triton_package() and torch.cuda.is_available()
        return is_there and compute_capability(0) >= LEAST_FOR_TRITON

    with (
        mock.patch.object(torch.cuda, "get_device_capability", get_device_capability),
        mock.patch.object(_triton, "has_triton", has_triton),
    ):
        yield
