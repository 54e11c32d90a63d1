"""One process, or several with DistributedDataParallel: every rank holds everything."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trials.contract.constants import EngineConstants, engine_constants
from trials.engines import Engine, EngineRefusal, Setting
from trials.engines.torch_step import MicrobatchContext, TorchStep
from trials.mesh import TENSOR, Mesh, device_mesh
from trials.model import build as build_model
from trials.model import initialise, to_empty
from trials.modify import STORED, dtype_of_weights, modify
from trials.optimizers import constants_of_sharded
from trials.split import Split, split_model, write_part

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
"""Precision → what the operators compute in, where it is not what is stored."""


def build(setting: Setting) -> Engine:
    config, device = setting.config, setting.device
    dtype = dtype_of_weights(config, STORED)
    built = build_model(setting.model, config, dtype, setting.seed, num_layers=setting.num_layers)
    built = modify(built, config, STORED, device)
    constants = engine_constants(built.num_parameters)
    if config.tensor_parallel_size > 1:
        constants = constants_of_sharded(config, built.num_parameters)
    mesh = device_mesh(setting) if setting.world_size > 1 else None
    split = split_model(built, mesh, config) if mesh else Split()
    model = built.module
    if built.is_meta:
        to_empty(model, device)
    elif device.type != "cpu":  # a factory's model is there already, and fake tensors cannot be moved
        model.to(device)
    initialise(built, device, setting.seed, write_part)
    microbatch: MicrobatchContext = _always
    if mesh and mesh.data.size() > 1:
        model = replicate(model, mesh, constants, device)
        microbatch = _NoSyncUntilLast(model)
    return TorchStep(
        model,
        config,
        constants,
        vocab_size=built.vocab_size,
        num_parameters=built.num_parameters,
        device=device,
        microbatch=microbatch,
        autocast=AUTOCAST.get(config.precision),
        split=split,
    )


def replicate(
    model: nn.Module, mesh: Mesh, constants: EngineConstants, device: torch.device
) -> DistributedDataParallel:
    """Have gradients averaged over the ranks that train the same parameters.

    Raises EngineRefusal for parameters that tensor-parallel ranks share.
    """
    if mesh[TENSOR].size() > 1:
        raise EngineRefusal("DDP does not average gradients that tensor-parallel ranks share; use fsdp")
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        process_group=mesh.data.get_group(),
        bucket_cap_mb=constants.ddp_bucket_mib,
        gradient_as_bucket_view=constants.ddp_gradient_as_bucket_view,
    )


def _always(is_last: bool) -> AbstractContextManager[object]:
    return nullcontext()


class _NoSyncUntilLast:
    """Gradients are reduced once a step, with its last microbatch."""

    def __init__(self, model: DistributedDataParallel) -> None:
        self._model = model

    def __call__(self, is_last: bool) -> AbstractContextManager[object]:
        return nullcontext() if is_last else self._model.no_sync()
