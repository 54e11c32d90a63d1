"""`TrainingConfig`: everything about a training run that autotune may choose."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from trials.contract.message import Message

Precision = Literal["fp32", "fp16", "bf16", "bf16_pure", "fp8"]
Optimizer = Literal["adamw", "adamw_8bit", "adam", "sgd", "adafactor", "lion"]
Adaptation = Literal["full", "lora"]
BaseWeights = Literal["native", "int8", "int4"]
QuantizationAware = Literal["none", "int8", "int4"]
ActivationCheckpointing = Literal["none", "selective", "full"]
Attention = Literal["sdpa", "eager", "flash"]
Loss = Literal["eager", "chunked"]
Sharding = Literal["ddp", "zero1", "zero2", "zero3", "fsdp", "hsdp"]
Offload = Literal["none", "optimizer", "optimizer_and_parameters", "activations"]
PipelineSchedule = Literal["1f1b", "gpipe"]

Count = Annotated[int, Field(ge=1, le=2**24)]
"""A number of things; the upper bound only keeps absurd input out of the arithmetic."""


class TrainingConfig(Message):
    """One configuration. Every field has a default, so a part of it reads as JSON too."""

    micro_batch_size: Count = 1
    """Sequences in one forward of one replica; with pipeline stages, of one pipeline microbatch."""

    gradient_accumulation_steps: Count = 1
    """Forwards per optimizer step; derived from the global batch, never searched."""

    sequence_length: Count = 1024
    """Tokens in one sequence."""

    precision: Precision = "bf16"
    """Number formats of weights, compute, gradients and states; docs/architecture.md has the table."""

    optimizer: Optimizer = "adamw"
    """Update rule; decides the bytes of state per parameter."""

    adaptation: Adaptation = "full"
    """`full` trains every weight; `lora` freezes them and trains low-rank adapters."""

    lora_rank: Count = 16
    """Rank of the adapters; read only with `adaptation=lora`."""

    base_weights: BaseWeights = "native"
    """Storage of the frozen weights under LoRA."""

    quantization_aware: QuantizationAware = "none"
    """Fake-quantise the linear weights in the forward, to train for a quantised deployment."""

    activation_checkpointing: ActivationCheckpointing = "none"
    """`selective` keeps attention and every second matmul; `full` keeps each layer's input alone."""

    attention: Attention = "sdpa"
    """Which attention kernel the model calls."""

    loss: Loss = "eager"
    """`eager` makes fp32 logits of the whole microbatch; `chunked` of a part of it at a time."""

    compile: bool = False
    """Whether each layer goes through torch.compile."""

    sharding: Sharding = "ddp"
    """What the data-parallel ranks split between them, and by which engine."""

    offload: Offload = "none"
    """What lives in CPU memory instead of on the device."""

    tensor_parallel_size: Count = 1
    """Ranks that split each matmul."""

    pipeline_parallel_size: Count = 1
    """Stages the layers are cut into."""

    pipeline_schedule: PipelineSchedule = "1f1b"
    """`1f1b` begins a microbatch's backward as soon as it can; `gpipe` runs all forwards of a step first."""

    context_parallel_size: Count = 1
    """Ranks that split each sequence."""

    @property
    def model_parallel_size(self) -> int:
        """Ranks that together hold one replica of the model."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.context_parallel_size

    def data_parallel_size(self, world_size: int) -> int:
        """Replicas in a world of `world_size` ranks; raises ValueError where it does not divide."""
        replicas, rest = divmod(world_size, self.model_parallel_size)
        if rest or not replicas:
            raise ValueError(
                f"a world of {world_size} cannot be split into replicas of {self.model_parallel_size} ranks"
            )
        return replicas

    def global_batch_size(self, world_size: int) -> int:
        """Sequences per optimizer step over all ranks."""
        return self.micro_batch_size * self.gradient_accumulation_steps * self.data_parallel_size(world_size)

    def tokens_per_step(self, world_size: int) -> int:
        """Tokens per optimizer step over all ranks."""
        return self.global_batch_size(world_size) * self.sequence_length


def choices(field: str) -> tuple[str | bool, ...] | None:
    """The values a field of TrainingConfig may take, or None where any count is one."""
    annotation = TrainingConfig.model_fields[field].annotation
    if annotation is bool:
        return (False, True)
    return get_args(annotation) or None
