"""LoRA: the weights frozen, and two low-rank matrices trained beside each linear of the layers (peft)."""

from dataclasses import replace

import torch
from torch import nn

from trials.model import BuiltModel, ModelUnusable

ALPHA_PER_RANK = 2
"""`lora_alpha` over the rank, as most recipes have it; neither speed nor memory depend on it."""


def add_adapters(built: BuiltModel, rank: int, dtype: torch.dtype) -> BuiltModel:
    """The model with its own weights frozen and adapters stored as `dtype`, which alone are trained.

    Raises ModelUnusable where its layers have no linear.
    """
    # Imported after the fork: importing peft touches CUDA.
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    targets = [
        f"{prefix}.{name}"
        for prefix, stack in built.module.named_modules()
        if stack is built.layers
        for name, module in stack.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    if not targets:
        raise ModelUnusable("the layers have no nn.Linear, so there is nothing to put LoRA adapters beside")
    built.module.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=ALPHA_PER_RANK * rank, target_modules=targets)
    inject_adapter_in_model(
        config, built.module, low_cpu_mem_usage=any(p.is_meta for p in built.module.parameters())
    )
    downs, ups = (
        {m for name, m in built.module.named_modules() if name.endswith(f"lora_{side}.default")}
        for side in "AB"
    )
    for adapter in downs | ups:
        adapter.weight = nn.Parameter(adapter.weight.detach().to(dtype))
    initialise_module = built.initialise_module
    if initialise_module is None:
        return built

    def initialise_with_adapters(module: nn.Module) -> None:
        if module in downs:
            nn.init.kaiming_uniform_(module.get_parameter("weight"), a=5**0.5)
        elif module in ups:
            nn.init.zeros_(module.get_parameter("weight"))
        else:
            initialise_module(module)

    return replace(built, initialise_module=initialise_with_adapters)
