"""DeepSpeed's configuration for a TrainingConfig: what the probe runs is what the export writes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from trials.contract.config import TrainingConfig
from trials.contract.constants import LEARNING_RATE, EngineConstants
from trials.contract.messages import DeviceKind

ZERO_STAGE: Mapping[str, int] = MappingProxyType({"zero1": 1, "zero2": 2, "zero3": 3})

_PRECISION: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "fp32": {},
        "fp16": {"fp16": {"enabled": True}},
        "bf16": {"bf16": {"enabled": True}},
        "fp8": {"bf16": {"enabled": True}},
        "bf16_pure": {
            "bf16": {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
        },
    }
)

_OPTIMIZER: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # The weight decay is torch's default; DeepSpeed's CPUAdam has another.
        "adamw": {"type": "AdamW", "params": {"adam_w_mode": True, "weight_decay": 0.01}},
        "adam": {"type": "Adam", "params": {"adam_w_mode": False}},
        "sgd": {"type": "SGD", "params": {}},
        "lion": {"type": "Lion", "params": {}},
    }
)


def deepspeed_config(
    config: TrainingConfig,
    constants: EngineConstants,
    world_size: int,
    device: DeviceKind,
) -> dict[str, Any]:
    """What `deepspeed.initialize(config=...)` takes, without an optimizer where it has to be given one.

    Raises KeyError for a configuration ZeRO cannot run.
    """
    bucket = constants.deepspeed_bucket_elements
    stage = ZERO_STAGE[config.sharding]
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "overlap_comm": device == "cuda",
        "contiguous_gradients": True,
    }
    if stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": bucket,
            "sub_group_size": constants.deepspeed_sub_group_elements,
        }
    in_cpu_memory = {"device": "cpu", "pin_memory": device == "cuda"}
    if config.offload in ("optimizer", "optimizer_and_parameters"):
        zero["offload_optimizer"] = in_cpu_memory
    if config.offload == "optimizer_and_parameters":
        zero["offload_param"] = in_cpu_memory
    return {
        "train_batch_size": config.global_batch_size(world_size),
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "gradient_clipping": constants.gradient_clip_norm,
        **({"optimizer": _optimizer(config, constants)} if makes_optimizer(config) else {}),
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        **_PRECISION[config.precision],
    }


def makes_optimizer(config: TrainingConfig) -> bool:
    """Whether DeepSpeed makes the optimizer; its own Lion for devices would have to be compiled."""
    in_cpu_memory = config.offload in ("optimizer", "optimizer_and_parameters")
    return config.optimizer in _OPTIMIZER and (config.optimizer != "lion" or in_cpu_memory)


def _optimizer(config: TrainingConfig, constants: EngineConstants) -> dict[str, Any]:
    chosen = _OPTIMIZER[config.optimizer]
    params: dict[str, Any] = {"lr": LEARNING_RATE, **chosen["params"]}
    if config.offload in ("none", "activations"):
        # torch's own: DeepSpeed's FusedAdam would be compiled on first use. SGD is torch's anyway.
        if config.optimizer in ("adam", "adamw"):
            params["torch_adam"] = True
        params["fused"] = constants.fused_optimizer
    return {"type": chosen["type"], "params": params}
