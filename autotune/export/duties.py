"""What the user's training script must do itself for the measured figures to hold, in words."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from autotune.export.target import Target
from trials.contract.capabilities import ENGINE_OF_SHARDING, EngineName
from trials.contract.config import Optimizer, PipelineSchedule, Precision, TrainingConfig
from trials.contract.constants import LOSS_CHUNKS

OF_FIELD: Mapping[str, Mapping[Any, str]] = MappingProxyType(
    {
        "adaptation": {"lora": "freeze the weights and train LoRA adapters of rank {lora_rank}"},
        "base_weights": {
            "int8": "load the frozen weights in int8",
            "int4": "load the frozen weights in int4",
        },
        "quantization_aware": {
            "int8": "fake-quantise the linear weights to int8 in the forward",
            "int4": "fake-quantise the linear weights to int4 in the forward",
        },
        "attention": {
            "sdpa": "call PyTorch's attention kernel (Transformers: attn_implementation='sdpa')",
            "eager": "call unfused attention (Transformers: attn_implementation='eager')",
            "flash": "call FlashAttention (Transformers: attn_implementation='flash_attention_2')",
        },
        "activation_checkpointing": {
            "full": "recompute each transformer block in the backward from its input alone "
            "(Transformers: model.gradient_checkpointing_enable({{'use_reentrant': False}}))",
            "selective": "checkpoint each transformer block, keeping the outputs of attention and of every "
            "second matmul (torch.utils.checkpoint.create_selective_checkpoint_contexts)",
        },
        "loss": {
            "chunked": f"compute the loss on {LOSS_CHUNKS} pieces of the micro-batch one by one, so that its "
            "fp32 logits never exist whole"
        },
        "compile": {True: "compile each transformer block (block.compile())"},
        "offload": {"activations": "keep saved activations in CPU memory (torch.autograd.graph.save_on_cpu)"},
        "precision": {"fp8": "run the linear layers in float8 with dynamic scales (torchao.float8)"},
    }
)
"""Field → value → what it asks of the script, whatever the engine."""

SCHEDULES: Mapping[PipelineSchedule, str] = MappingProxyType(
    {
        "1f1b": "run the pipeline's stages by 1F1B, one microbatch per micro-batch of a step "
        "(torch.distributed.pipelining.Schedule1F1B)",
        "gpipe": "run the pipeline's stages by GPipe, one microbatch per micro-batch of a step "
        "(torch.distributed.pipelining.ScheduleGPipe)",
    }
)
"""Order of a pipeline's forwards and backwards → what it asks of the script."""

STORED: Mapping[Precision, str] = MappingProxyType(
    {"fp32": "fp32", "fp16": "fp32", "bf16": "fp32", "bf16_pure": "bf16", "fp8": "fp32"}
)
"""What PyTorch's own engines keep the weights in."""

OPTIMIZERS: Mapping[Optimizer, str] = MappingProxyType(
    {
        "adamw": "torch.optim.AdamW(..., fused={fused})",
        "adam": "torch.optim.Adam(..., fused={fused})",
        "sgd": "torch.optim.SGD(..., fused={fused})",
        "adamw_8bit": "torchao.optim.AdamW8bit (Transformers: optim='adamw_torch_8bit')",
        "adafactor": "torch.optim.Adafactor",
        "lion": "Lion",
    }
)


SPLITS: Mapping[str, str] = MappingProxyType(
    {
        "tensor_parallel_size": "split the model: tensor parallel over {tensor_parallel_size} ranks",
        "pipeline_parallel_size": "split the model: pipeline parallel over {pipeline_parallel_size} ranks",
        "context_parallel_size": "split each sequence over {context_parallel_size} ranks, an early and a "
        "late piece for each (as torch.distributed.tensor.experimental.context_parallel does)",
    }
)


def model_duties(config: TrainingConfig, *, done: frozenset[str] = frozenset()) -> list[str]:
    """What data, model and loss must be; `done` names fields that the exported files take care of."""
    values = config.model_dump()
    sentences = [
        "feed each replica micro-batches of {micro_batch_size} × {sequence_length} tokens",
        *(
            sentence
            for field, by_value in OF_FIELD.items()
            if field not in done and (sentence := by_value.get(values[field]))
        ),
        *(sentence for field, sentence in SPLITS.items() if values[field] > 1),
        *([SCHEDULES[config.pipeline_schedule]] if config.pipeline_parallel_size > 1 else []),
    ]
    return [sentence.format(**values) for sentence in sentences]


def engine_duties(target: Target) -> list[str]:
    """What a script does that is started by a plain launcher: wrap, accumulate, clip, update."""
    return _OF_ENGINE[ENGINE_OF_SHARDING[target.config.sharding]](target)


def optimizer_duty(target: Target) -> str:
    words = OPTIMIZERS[target.config.optimizer].format(fused=target.constants.fused_optimizer)
    return f"update with {words}"


_COMPUTE: Mapping[str, str] = MappingProxyType({"bf16": "torch.bfloat16", "fp16": "torch.float16"})


def compute_type(precision: Precision) -> str | None:
    """What the operators compute in, where it is not what the weights are stored in."""
    return _COMPUTE.get(precision)


def _native(target: Target) -> list[str]:
    config, constants = target.config, target.constants
    precision = f"keep the weights in {STORED[config.precision]}"
    if compute := compute_type(config.precision):
        precision += f" and run forward and loss under torch.autocast('{target.device}', {compute})"
    if config.precision == "fp16":
        precision += ", the loss scaled by torch.amp.GradScaler"
    wrapping = (
        f"wrap the model in DistributedDataParallel(..., bucket_cap_mb={constants.ddp_bucket_mib}, "
        f"gradient_as_bucket_view={constants.ddp_gradient_as_bucket_view})"
    )
    return [
        precision,
        *([wrapping] if target.world_size > 1 else []),
        _accumulation(config, "the gradients reduced with the last only (model.no_sync() for the others)"),
        optimizer_duty(target),
        _clipping(target),
    ]


def _fsdp(target: Target) -> list[str]:
    config, constants = target.config, target.constants
    arguments = ["..."]
    if config.sharding == "hsdp":
        arguments.append(
            f"mesh=init_device_mesh('{target.device}', ({target.num_nodes}, {target.gpus_per_node}))"
        )
    if compute := compute_type(config.precision):
        arguments.append(f"mp_policy=MixedPrecisionPolicy({compute}, reduce_dtype=torch.float32)")
    if config.offload == "optimizer_and_parameters":
        arguments.append("offload_policy=CPUOffloadPolicy()")
    layer = f"{target.layer_class} block" if target.layer_class else "transformer block"
    gradients = "sharded" if constants.fsdp_reduce_every_microbatch else "whole until the last"
    scaling = ", the loss scaled by torch.amp.GradScaler" if config.precision == "fp16" else ""
    return [
        f"keep the weights in {STORED[config.precision]} and shard every {layer}, then the model, with "
        f"torch.distributed.fsdp.fully_shard({', '.join(arguments)}){scaling}",
        _accumulation(config, f"the gradients kept {gradients}"),
        optimizer_duty(target),
        _clipping(target),
    ]


def deepspeed_duties(target: Target) -> list[str]:
    """What a script does that trains by ds_config.json."""
    sentences = [
        "hand ds_config.json to deepspeed.initialize(config=...), which makes the optimizer; then call "
        "engine.backward(loss) and engine.step() with every micro-batch: DeepSpeed accumulates and clips",
        "set its own learning rate: optimizer.params.lr of ds_config.json is the one the probes used",
    ]
    if target.config.sharding == "zero3":
        sentences = [
            "build the model under deepspeed.zero.Init(config_dict_or_path=...): no rank may hold it whole",
            *sentences,
        ]
    return sentences


_OF_ENGINE: Mapping[EngineName, Callable[[Target], list[str]]] = MappingProxyType(
    {"native": _native, "fsdp": _fsdp, "zero": deepspeed_duties}
)


def _accumulation(config: TrainingConfig, how: str) -> str:
    steps = config.gradient_accumulation_steps
    if steps == 1:
        return "take an optimizer step with every micro-batch"
    return f"take an optimizer step with every {steps} micro-batches, each loss divided by {steps}, {how}"


def _clipping(target: Target) -> str:
    return f"clip the gradient norm to {target.constants.gradient_clip_norm:g}"
