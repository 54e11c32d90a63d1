"""FSDP2: parameters, gradients and states sharded by layer, gathered as they are needed."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from packaging.version import Version
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)

from trials.contract.config import Sharding
from trials.engines import Engine, EngineRefusal, Setting
from trials.engines.torch_step import TorchStep
from trials.mesh import Mesh, device_mesh
from trials.model import build as build_model
from trials.model import initialise, to_empty
from trials.modify import STORED, dtype_of_weights, modify
from trials.optimizers import constants_of_sharded
from trials.split import split_model, write_part

POLICY = {
    "fp32": MixedPrecisionPolicy(),
    "bf16": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
    "fp16": MixedPrecisionPolicy(param_dtype=torch.float16, reduce_dtype=torch.float32),
    "bf16_pure": MixedPrecisionPolicy(),
    "fp8": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
}
"""Precision → what is gathered and what gradients are reduced in."""


SHARDS_INTEGERS_FROM = "2.12"
"""Version of torch; before it, FSDP asked of every shard whether it can have a gradient."""


def build(setting: Setting) -> Engine:
    config, device = setting.config, setting.device
    if config.base_weights != "native" and Version(torch.__version__) < Version(SHARDS_INTEGERS_FROM):
        raise EngineRefusal(
            f"FSDP of torch {torch.__version__} cannot shard {config.base_weights} weights; "
            f"torch {SHARDS_INTEGERS_FROM} and later can"
        )
    dtype = dtype_of_weights(config, STORED)
    built = build_model(setting.model, config, dtype, setting.seed, num_layers=setting.num_layers)
    built = modify(built, config, STORED, device)
    mesh = device_mesh(setting)
    split = split_model(built, mesh, config)
    root = shard(built.module, built.layers, mesh, setting)
    if built.is_meta:
        to_empty(built.module, device, parameters_on=home_of_parameters(setting))
    initialise(built, device, setting.seed, write_part)
    constants = constants_of_sharded(config, built.num_parameters)
    return TorchStep(
        built.module,
        config,
        constants,
        vocab_size=built.vocab_size,
        num_parameters=built.num_parameters,
        device=device,
        microbatch=_ReduceWhen(root, every=constants.fsdp_reduce_every_microbatch),
        autocast=None,
        split=split,
    )


def shard(module: nn.Module, layers: Iterable[nn.Module], mesh: Mesh, setting: Setting) -> FSDPModule:
    """Split the parameters of `module` over the ranks that train the same ones, layer by layer."""
    config = setting.config
    offload = OffloadPolicy()
    if config.offload == "optimizer_and_parameters":
        offload = CPUOffloadPolicy(pin_memory=setting.device.type == "cuda")
    how: dict[str, Any] = {
        "mesh": _mesh_of_shards(mesh, config.sharding),
        "mp_policy": POLICY[config.precision],
        "offload_policy": offload,
    }
    for layer in layers:
        fully_shard(layer, **how)
    return fully_shard(module, **how)


def home_of_parameters(setting: Setting) -> torch.device:
    """Where shards are when nothing reads them."""
    in_cpu_memory = setting.config.offload == "optimizer_and_parameters"
    return torch.device("cpu") if in_cpu_memory else setting.device


def _mesh_of_shards(mesh: Mesh, sharding: Sharding) -> DeviceMesh:
    """One row of shards or, under HSDP, a row for each node, which are replicas of each other."""
    return mesh.nodes if sharding == "hsdp" else mesh.data


class _ReduceWhen:
    """Reduce gradients with every microbatch (they stay sharded), or with the last one only."""

    def __init__(self, model: FSDPModule, *, every: bool) -> None:
        self._model = model
        self._every = every

    def __call__(self, is_last: bool) -> AbstractContextManager[object]:
        self._model.set_requires_gradient_sync(self._every or is_last)
        return nullcontext()
