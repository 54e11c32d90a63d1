"""FSDP2: parameters, gradients and states sharded by layer, gathered as they are needed."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from trials.contract.constants import engine_constants
from trials.engines import Engine, Setting
from trials.engines.torch_step import TorchStep
from trials.model import build as build_model
from trials.model import checkpoint_layers, initialise, to_empty

STORED = {"fp32": torch.float32, "bf16": torch.float32, "fp16": torch.float32, "bf16_pure": torch.bfloat16}
"""Precision → what the shards are kept in."""
POLICY = {
    "fp32": MixedPrecisionPolicy(),
    "bf16": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
    "fp16": MixedPrecisionPolicy(param_dtype=torch.float16, reduce_dtype=torch.float32),
    "bf16_pure": MixedPrecisionPolicy(),
}
"""Precision → what is gathered and what gradients are reduced in."""

NEVER_FUSED = ("sgd",)
"""Optimizers whose fused step has no sharding strategy for DTensor."""


def build(setting: Setting) -> Engine:
    config, device = setting.config, setting.device
    built = build_model(
        setting.model, config, STORED[config.precision], setting.seed, num_layers=setting.num_layers
    )
    constants = engine_constants(built.num_parameters)
    if config.optimizer in NEVER_FUSED:
        constants = constants.model_copy(update={"fused_optimizer": False})
    with unset_fake_temporarily():  # ranks are looked up in it, also in a trace
        mesh = init_device_mesh(device.type, (setting.world_size,))
    checkpoint_layers(built.layers, config.activation_checkpointing)
    for layer in built.layers:
        fully_shard(layer, mesh=mesh, mp_policy=POLICY[config.precision])
    model = built.module
    root = fully_shard(model, mesh=mesh, mp_policy=POLICY[config.precision])
    if built.is_meta:
        to_empty(model, device)
    initialise(built, device, setting.seed, _write_shard)
    return TorchStep(
        model,
        config,
        constants,
        vocab_size=built.vocab_size,
        num_parameters=built.num_parameters,
        device=device,
        microbatch=_ReduceWhen(root, every=constants.fsdp_reduce_every_microbatch),
        autocast=None,
    )


def _write_shard(parameter: torch.nn.Parameter, full: torch.Tensor) -> None:
    """Every rank has the same whole tensor, so each takes its part without communication."""
    assert isinstance(parameter, DTensor)
    part = distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
    parameter.to_local().copy_(part.to_local())


class _ReduceWhen:
    """Reduce gradients with every microbatch (they stay sharded), or with the last one only."""

    def __init__(self, model: FSDPModule, *, every: bool) -> None:
        self._model = model
        self._every = every

    def __call__(self, is_last: bool) -> AbstractContextManager[object]:
        self._model.set_requires_gradient_sync(self._every or is_last)
        return nullcontext()
