"""What a configuration makes of a model before an engine takes it, in the order it has to be made in."""

from collections.abc import Mapping
from contextlib import nullcontext
from types import MappingProxyType

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from trials.contract.config import Precision, TrainingConfig
from trials.model import BuiltModel, ModelUnusable, checkpoint_layers

STORED: Mapping[Precision, torch.dtype] = MappingProxyType(
    {
        "fp32": torch.float32,
        "fp16": torch.float32,
        "bf16": torch.float32,
        "bf16_pure": torch.bfloat16,
        "fp8": torch.float32,
    }
)
"""Precision → what PyTorch's own engines keep trained weights in, whole or in shards."""
COMPUTED: Mapping[Precision, torch.dtype] = MappingProxyType(
    {
        "fp32": torch.float32,
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
        "bf16_pure": torch.bfloat16,
        "fp8": torch.bfloat16,
    }
)
"""Precision → what the operators compute in; float8 matmuls have their own operands cast once more."""


def dtype_of_weights(config: TrainingConfig, stored: Mapping[Precision, torch.dtype]) -> torch.dtype:
    """What the model's own weights are kept in; frozen ones need no more digits than are computed with."""
    return (COMPUTED if config.adaptation == "lora" else stored)[config.precision]


def modify(
    built: BuiltModel, config: TrainingConfig, stored: Mapping[Precision, torch.dtype], device: torch.device
) -> BuiltModel:
    """The model with its layers quantised, adapted, recomputed or compiled as `config` has them.

    `stored`: what trained parameters are kept in at each precision. Raises ModelUnusable.
    """
    # As when it was built: a trace's fake tensors that are meta as well cannot be given memory.
    with unset_fake_temporarily() if built.is_meta else nullcontext():
        built = _with_other_linears(built, config, stored, device)
    if config.loss == "chunked":
        from trials.chunked_loss import chunk_loss

        chunk_loss(built)
    if config.offload == "activations":
        from trials.offload import offload_activations

        offload_activations(built.layers)
    checkpoint_layers(built.layers, config.activation_checkpointing)
    if config.compile:
        for layer in built.layers:
            layer.compile()
    return built


def _with_other_linears(
    built: BuiltModel, config: TrainingConfig, stored: Mapping[Precision, torch.dtype], device: torch.device
) -> BuiltModel:
    changes_linears = (
        config.base_weights != "native" or config.precision == "fp8" or config.quantization_aware != "none"
    )
    if changes_linears and not any(isinstance(module, nn.Linear) for module in built.layers.modules()):
        raise ModelUnusable("the layers have no nn.Linear, so there is nothing to quantise or to cast")
    if config.base_weights == "int4" and any(
        isinstance(module, nn.Linear) and module.in_features % 2 for module in built.layers.modules()
    ):
        raise ModelUnusable(
            "two weights of a row share a byte in four bits, and some rows have an odd number"
        )
    if config.base_weights != "native":
        from trials.quantised import quantise

        quantise(built.layers, config.base_weights)
    if config.adaptation == "lora":
        from trials.lora import add_adapters

        built = add_adapters(built, config.lora_rank, stored[config.precision])
    if config.precision == "fp8":
        from trials.float8 import use_float8

        use_float8(built.layers, device)
    if config.quantization_aware != "none":
        from trials.fake_quantised import fake_quantise

        fake_quantise(built.layers, config.quantization_aware)
    return built
