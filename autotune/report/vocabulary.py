"""What fields, values and evidence are called, wherever people read of them: the terminal and the pages."""

from trials.contract.config import TrainingConfig

HEADINGS = {
    "sharding": ("sharding", "sharding"),
    "precision": ("precision", "precision"),
    "micro_batch_size": ("micro-batch", "micro"),
    "gradient_accumulation_steps": ("accumulation", "accum"),
    "activation_checkpointing": ("checkpointing", "ckpt"),
    "offload": ("offload", "offload"),
    "optimizer": ("optimizer", "optimizer"),
    "adaptation": ("adaptation", "adapt"),
    "lora_rank": ("LoRA rank", "rank"),
    "base_weights": ("base weights", "base"),
    "quantization_aware": ("quantization", "qat"),
    "attention": ("attention", "attn"),
    "loss": ("loss", "loss"),
    "compile": ("compile", "compile"),
    "tensor_parallel_size": ("tensor", "tp"),
    "pipeline_parallel_size": ("pipeline", "pp"),
    "pipeline_schedule": ("schedule", "schedule"),
    "context_parallel_size": ("context", "cp"),
    "sequence_length": ("length", "length"),
}
"""Field of TrainingConfig → its heading, and the one for narrow terminals; in the order of reading."""

ALWAYS = frozenset({"sharding", "precision", "micro_batch_size"})
"""Fields that every table of configurations has as columns."""

NEVER_UNSAID = ALWAYS | {"sequence_length"}
USUAL = TrainingConfig()
"""Values of the other fields that go without saying."""

SAID = {
    "sharding": "{}",
    "precision": "{}",
    "micro_batch_size": "micro-batch {}",
    "gradient_accumulation_steps": "× {}",
    "activation_checkpointing": "checkpointing {}",
    "offload": "offload {}",
    "sequence_length": "length {}",
}
"""How a field is said in a line of words; the others as field=value."""

CAVEATS = (
    (
        "precision",
        "bf16_pure",
        "bf16_pure keeps no fp32 master weights; see that your loss converges so, or --set precision=bf16",
    ),
    ("precision", "fp16", "fp16 needs its loss scaler all the way; see that your loss stays finite"),
)
"""Field, value, what to know before training with it."""

EVIDENCE = {
    "confirmed": "confirmed",
    "measured": "not confirmed",
    "forecast": "forecast, not measured",
}
"""Kind of evidence → how far it goes."""
