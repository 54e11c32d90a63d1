"""Hugging Face accelerate: its configuration file for DDP, FSDP2 and DeepSpeed, and `accelerate launch`."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import yaml

from autotune.export.deepspeed import ds_config
from autotune.export.duties import STORED, compute_type, model_duties, optimizer_duty
from autotune.export.script import environment, launch_script, torchrun
from autotune.export.target import Target, refuse
from trials.contract.capabilities import ENGINE_OF_SHARDING, EngineName, Refusal
from trials.contract.config import Precision

REFUSALS = (
    Refusal(
        {"sharding": ("fsdp", "hsdp")},
        "accelerate shards on GPUs only, and on CPU leaves it out without a word; use --to torchrun",
        on="cpu",
    ),
    Refusal(
        {"sharding": ("zero1", "zero2", "zero3")},
        "under DeepSpeed on CPU accelerate takes every rank for the only one; use --to deepspeed",
        on="cpu",
    ),
    Refusal(
        {"precision": ("fp16",)},
        "accelerate leaves fp16 out on CPU without a word; use --to torchrun",
        on="cpu",
    ),
    Refusal({"precision": ("fp8",)}, "its fp8 is not what was forecast; use --to torchrun"),
)

MIXED_PRECISION: Mapping[Precision, str] = MappingProxyType(
    {"fp32": "no", "fp16": "fp16", "bf16": "bf16", "bf16_pure": "no"}
)


def files(target: Target) -> dict[str, str]:
    """accelerate_config.yaml, launch.sh and, under ZeRO, ds_config.json.

    Raises BadInput for what accelerate cannot run.
    """
    refuse(target, "accelerate", REFUSALS)
    engine = ENGINE_OF_SHARDING[target.config.sharding]
    launch = [
        "accelerate launch",
        '--config_file="$here/accelerate_config.yaml"',
        '--main_process_ip="$MASTER_ADDR"',
        '--main_process_port="$MASTER_PORT"',
        '--machine_rank="$NODE_RANK"',
    ]
    texts = {}
    if engine == "zero":
        launch.append('--deepspeed_config_file="$here/ds_config.json"')
        # The training script's optimizer takes the place of DeepSpeed's, so that its settings stay there.
        without_optimizer = {key: value for key, value in ds_config(target).items() if key != "optimizer"}
        texts["ds_config.json"] = json.dumps(without_optimizer, indent=2) + "\n"
    if target.device == "cpu":
        # On CPU accelerate starts one process, so torchrun starts as many of it as there are ranks.
        launch = torchrun(target, "--no-python", *launch)
    steps = str(target.config.gradient_accumulation_steps)
    variables = {**environment(target), "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": steps}
    duties = [*_DUTIES[engine](target), *_common_duties(target)]
    return texts | {
        "accelerate_config.yaml": yaml.safe_dump(configuration(target), sort_keys=False),
        "launch.sh": launch_script(target, "accelerate", launch, duties, variables),
    }


def configuration(target: Target) -> dict[str, Any]:
    """What accelerate_config.yaml says."""
    engine = ENGINE_OF_SHARDING[target.config.sharding]
    return {
        "compute_environment": "LOCAL_MACHINE",
        **_DISTRIBUTED[engine](target),
        # DeepSpeed's precision stands in ds_config.json, and accelerate wants it in one place.
        **({} if engine == "zero" else {"mixed_precision": MIXED_PRECISION[target.config.precision]}),
        "num_machines": target.num_nodes,
        "num_processes": target.world_size,
        "use_cpu": target.device == "cpu",
    }


def _ddp(target: Target) -> dict[str, Any]:
    if target.world_size == 1:
        return {"distributed_type": "NO"}
    return {"distributed_type": "MULTI_GPU" if target.device == "cuda" else "MULTI_CPU"}


def _fsdp(target: Target) -> dict[str, Any]:
    config = target.config
    wrapped = {"fsdp_transformer_layer_cls_to_wrap": target.layer_class} if target.layer_class else {}
    parallelism = {
        "parallelism_config": {
            "parallelism_config_dp_replicate_size": target.num_nodes,
            "parallelism_config_dp_shard_size": target.gpus_per_node,
        }
    }
    return {
        "distributed_type": "FSDP",
        "fsdp_config": {
            "fsdp_version": 2,
            "fsdp_reshard_after_forward": True,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            **wrapped,
            "fsdp_activation_checkpointing": config.activation_checkpointing == "full",
            "fsdp_offload_params": config.offload == "optimizer_and_parameters",
            "fsdp_state_dict_type": "SHARDED_STATE_DICT",
        },
        **(parallelism if config.sharding == "hsdp" else {}),
    }


def _zero(target: Target) -> dict[str, Any]:
    return {
        "distributed_type": "DEEPSPEED",
        "deepspeed_config": {
            "deepspeed_config_file": "ds_config.json",
            "deepspeed_multinode_launcher": "standard",
            "zero3_init_flag": target.config.sharding == "zero3",
        },
    }


_DISTRIBUTED: Mapping[EngineName, Callable[[Target], dict[str, Any]]] = MappingProxyType(
    {"native": _ddp, "fsdp": _fsdp, "zero": _zero}
)


def _ddp_duties(target: Target) -> list[str]:
    constants = target.constants
    stored = f"keep the weights in {STORED[target.config.precision]}"
    if target.world_size == 1:
        return [stored]
    return [
        "construct Accelerator(kwargs_handlers=[DistributedDataParallelKwargs( "
        f"bucket_cap_mb={constants.ddp_bucket_mib}, "
        f"gradient_as_bucket_view={constants.ddp_gradient_as_bucket_view})])",
        stored,
    ]


def _fsdp_duties(target: Target) -> list[str]:
    config = target.config
    sentences = [f"keep the weights in {STORED[config.precision]}"]
    if compute := compute_type(config.precision):
        sentences.append(
            "reduce gradients in fp32, where accelerate would not: Accelerator(fsdp_plugin="
            "FullyShardedDataParallelPlugin( mixed_precision_policy=MixedPrecisionPolicy( "
            f"{compute}, reduce_dtype=torch.float32)))"
        )
    if config.gradient_accumulation_steps > 1 and target.constants.fsdp_reduce_every_microbatch:
        sentences.append(
            "keep gradients sharded while accumulating, where accelerate would not: Accelerator("
            "gradient_accumulation_plugin=GradientAccumulationPlugin( "
            f"num_steps={config.gradient_accumulation_steps}, sync_each_batch=True))"
        )
    if not target.layer_class:
        sentences.append(
            "name the class of its transformer block as fsdp_transformer_layer_cls_to_wrap in "
            "accelerate_config.yaml, unless it is a model of Transformers, which knows it itself"
        )
    return sentences


def _zero_duties(target: Target) -> list[str]:
    if target.config.sharding != "zero3":
        return []
    return [
        "construct Accelerator before the model, and load that with from_pretrained, so that no rank "
        "holds it whole"
    ]


_DUTIES: Mapping[EngineName, Callable[[Target], list[str]]] = MappingProxyType(
    {"native": _ddp_duties, "fsdp": _fsdp_duties, "zero": _zero_duties}
)


def _common_duties(target: Target) -> list[str]:
    sharded = ENGINE_OF_SHARDING[target.config.sharding] == "fsdp"
    return [
        "pass model, optimizer and data through accelerator.prepare, and train under "
        "accelerator.accumulate(model): launch.sh sets the number of micro-batches per optimizer step",
        optimizer_duty(target),
        f"clip with accelerator.clip_grad_norm_(..., {target.constants.gradient_clip_norm:g})",
        *model_duties(
            target.config, done=frozenset({"activation_checkpointing"}) if sharded else frozenset()
        ),
    ]
