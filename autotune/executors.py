"""What `--executor` can name: each made for the layout of a job's probes."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from autotune.errors import NotHere
from autotune.execution.executor import Executor, Layout

ExecutorFactory = Callable[[Layout, str | None], Executor]
"""Layout and Ray address → an executor."""


def _local_executor(layout: Layout, ray_address: str | None) -> Executor:
    from autotune.execution.local import LocalExecutor
    from autotune.hardware.nvml import local_gpus

    gpu_ids = [gpu.visible_as for gpu in local_gpus()] if layout.device == "cuda" else []
    needed = layout.num_slots * layout.world_size
    if layout.device == "cuda" and len(gpu_ids) < needed:
        raise NotHere(
            f"this machine has {len(gpu_ids)} of the {needed} GPUs of the inventory; use --gpus auto, "
            "--executor ray with --ray-address, or `autotune plan` for a forecast without them"
        )
    return LocalExecutor(layout, gpu_ids)


def _ray_executor(layout: Layout, ray_address: str | None) -> Executor:
    from autotune.execution.ray import RayExecutor

    return RayExecutor(layout, ray_address)


EXECUTORS: Mapping[str, ExecutorFactory] = MappingProxyType({"ray": _ray_executor, "local": _local_executor})
