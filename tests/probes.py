"""Tiny models and short requests, for tests that really probe."""

import itertools
from pathlib import Path
from typing import Any

from trials.contract.config import TrainingConfig
from trials.contract.messages import MeasurementPlan, ModelSpec, ProbeRequest

FACTORIES = Path(__file__).parent / "trials" / "factories"
CPU = frozenset({"cpu", "bf16", "fp16"})
"""Features of the device that these tests run on."""

THREE_STEPS = MeasurementPlan(min_warm_up_steps=1, max_warm_up_steps=1, min_steps=2, max_steps=2)
ENDLESS = MeasurementPlan(max_steps=2**24, max_measure_s=1e6, relative_half_width=1e-9)

# Weights drawn wider than usual, so that the layers matter and the gradient norm is above the clipping
# threshold: a mistake in either shows.
DECODER = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.05,
}
_GPT2 = {
    "vocab_size": 96,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "initializer_range": 0.05,
}
_ids = itertools.count()


def hf_model(model_type: str, **fields: Any) -> ModelSpec:
    return ModelSpec(name=model_type, hf_config={"model_type": model_type, **fields})


def factory_model(factory: str, folder: Path = FACTORIES) -> ModelSpec:
    """A model of tests/trials/factories: `module:callable`."""
    return ModelSpec(name="factory", factory=factory, factory_path=str(folder))


TINY = {
    "llama": hf_model("llama", **DECODER, tie_word_embeddings=False),
    "llama-tied": hf_model("llama", **DECODER, tie_word_embeddings=True),
    "gpt2": hf_model("gpt2", **_GPT2),
    "llama-three": hf_model("llama", **{**DECODER, "num_hidden_layers": 3}, tie_word_embeddings=False),
    "llama-wide": hf_model(
        "llama", **{**DECODER, "hidden_size": 128, "intermediate_size": 128}, tie_word_embeddings=False
    ),
    "qwen3": hf_model("qwen3", **DECODER, head_dim=8, tie_word_embeddings=False),
    "mistral": hf_model("mistral", **DECODER, sliding_window=None, tie_word_embeddings=False),
    "qwen2": hf_model("qwen2", **DECODER, tie_word_embeddings=False),
    "mixtral": hf_model("mixtral", **DECODER, num_local_experts=4, tie_word_embeddings=False),
    "qwen3-moe": hf_model(
        "qwen3_moe", **DECODER, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
    ),
    "factory": factory_model("tiny:build"),
}


GRANITE = hf_model(
    "granite", **DECODER, tie_word_embeddings=False, embedding_multiplier=12.0, logits_scaling=8.0
)
"""Its embeddings and logits are more than what their matrices give."""


def probe(
    model: ModelSpec = TINY["llama"], config: dict[str, Any] | None = None, **fields: Any
) -> ProbeRequest:
    """A request for three steps of a small configuration on two ranks, unless told otherwise."""
    small = {"precision": "fp32", "sequence_length": 16, "micro_batch_size": 2}
    defaults = {
        "probe_id": f"test-{next(_ids)}",
        "world_size": 2,
        "measurement": THREE_STEPS,
        "deadline_s": 120.0,
    }
    return ProbeRequest(model=model, config=TrainingConfig(**small | (config or {})), **defaults | fields)
