"""What fields, values and evidence are called, wherever people read of them: the terminal and the pages."""

from trials.contract.config import TrainingConfig
from trials.contract.outcome import Outcome

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

OUTCOMES: dict[str, str] = {
    Outcome.MEASURED: "ran to a figure",
    Outcome.OUTPACED: "stopped early: it could no longer win",
    Outcome.OUT_OF_MEMORY: "needed more memory than there is",
    Outcome.NON_FINITE: "its loss or its gradients were no numbers",
    Outcome.TIMED_OUT: "took longer than a probe may",
    Outcome.CRASHED: "ended with an error that is none of the others",
    Outcome.INTERRUPTED: "its machine or its driver went away; it is probed again",
    Outcome.INVALID: "its engine refused the configuration",
}
"""What became of a probe → what that means."""

TERMS = {
    "usable": "the ceiling less the headroom: what a peak may come to",
    "front": "those that none other beats in both speed and memory",
    "weights": "the model's parameters as they are stored",
    "gradients": "of every trained parameter",
    "master": "a copy of the weights in fp32, which the optimizer updates",
    "optimizer": "what the optimizer keeps of every trained parameter",
    "activations": "what the forward keeps for the backward",
    "transient": "what comes and goes within a step: gathered weights, logits, buffers of kernels",
    "fixed": "what lies outside tensors: libraries, CUDA context, buffers of communicators",
}
"""Other words of the pages → what they mean."""
