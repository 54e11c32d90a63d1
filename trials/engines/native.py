"""One process, or several with DistributedDataParallel: every rank holds everything."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.parallel import DistributedDataParallel

from trials.contract.constants import engine_constants
from trials.engines import Engine, Setting
from trials.engines.torch_step import TorchStep
from trials.model import build as build_model
from trials.model import checkpoint_layers, initialise, to_empty

STORED = {"fp32": torch.float32, "bf16": torch.float32, "fp16": torch.float32, "bf16_pure": torch.bfloat16}
"""Precision → what the weights are kept in."""
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision → what the operators compute in, where it is not what is stored."""


def build(setting: Setting) -> Engine:
    config, device = setting.config, setting.device
    built = build_model(
        setting.model, config, STORED[config.precision], setting.seed, num_layers=setting.num_layers
    )
    constants = engine_constants(built.num_parameters)
    checkpoint_layers(built.layers, config.activation_checkpointing)
    model = built.module
    if built.is_meta:
        to_empty(model, device)
    elif device.type != "cpu":  # a factory's model is there already, and fake tensors cannot be moved
        model.to(device)
    initialise(built, device, setting.seed, lambda parameter, full: parameter.copy_(full))

    microbatch = _always
    if setting.world_size > 1:
        model = DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            bucket_cap_mb=constants.ddp_bucket_mib,
            gradient_as_bucket_view=constants.ddp_gradient_as_bucket_view,
        )
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
    )


def _always(is_last: bool) -> AbstractContextManager[object]:
    return nullcontext()


class _NoSyncUntilLast:
    """Gradients are reduced once a step, with its last microbatch."""

    def __init__(self, model: DistributedDataParallel) -> None:
        self._model = model

    def __call__(self, is_last: bool) -> AbstractContextManager[object]:
        return nullcontext() if is_last else self._model.no_sync()
