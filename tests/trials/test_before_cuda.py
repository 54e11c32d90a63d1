"""Libraries that look at the GPU when they are imported do not initialise CUDA in the process that forks.

torchao does when a model class of transformers is imported: seen on an H200, where no probe could run.
"""

import pytest
import torch
from torch.types import Device
from torch.utils import _triton

from trials import before_cuda
from trials.before_cuda import gpus_by_nvml


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A GPU as NVML would tell of it; returned are the devices that were asked for."""
    asked: list[int] = []

    def capability(index: int) -> tuple[int, int]:
        asked.append(index)
        return 9, 0

    def initialised() -> None:
        raise AssertionError("CUDA would be initialised")

    monkeypatch.setattr(before_cuda, "compute_capability", capability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", initialised)
    monkeypatch.setattr(_triton, "has_triton_package", lambda: True)
    return asked


@pytest.mark.parametrize(
    ("device", "index"), [(None, 0), (1, 1), ("cuda", 0), ("cuda:3", 3), (torch.device("cuda", 2), 2)]
)
def test_nvml_answers_what_a_gpu_is_capable_of(gpu: list[int], device: Device, index: int) -> None:
    with gpus_by_nvml():
        assert torch.cuda.get_device_capability(device) == (9, 0)
    assert gpu == [index]


def test_triton_is_there_without_a_look_at_the_device(gpu: list[int]) -> None:
    with gpus_by_nvml():
        assert _triton.has_triton()


def test_afterwards_torch_answers_itself(gpu: list[int]) -> None:
    before = torch.cuda.get_device_capability, _triton.has_triton
    with pytest.raises(ImportError), gpus_by_nvml():
        raise ImportError("whatever is imported may fail")
    assert (torch.cuda.get_device_capability, _triton.has_triton) == before
    with pytest.raises(AssertionError, match="would be initialised"):
        torch.cuda.get_device_capability()
