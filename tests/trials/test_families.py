"""Every family whose splitting is said to train as one process does trains so."""

import pytest
import transformers
from agreement import Reference, Run, check
from probes import DECODER, hf_model, probe
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from trials.contract.capabilities import PIPELINE, SPLIT_FAMILIES, WITHOUT_SDPA
from trials.contract.messages import ModelSpec

EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
FIELDS = {
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "n_shared_experts": 1,
    },
    "gemma": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 512},
    "gpt_oss": {"head_dim": 8, "sliding_window": 512, **EXPERTS},
    "mistral": {"sliding_window": None},
    "mixtral": EXPERTS,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0, "init_std": 0.05},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}


def tiny(family: str) -> ModelSpec:
    untied = {"tie_word_embeddings": False, "pad_token_id": 0}
    return hf_model(family, **{**DECODER, **untied, **FIELDS.get(family, {})})


@pytest.mark.parametrize(
    ("size", "family"),
    [(size, family) for size, families in SPLIT_FAMILIES.items() for family in sorted(families)],
)
def test_it_trains_as_one_process_does(run: Run, reference: Reference, size: str, family: str) -> None:
    attention = {"attention": "eager"} if family in WITHOUT_SDPA else {}
    micro_batch_size = 2 if size == PIPELINE else 4
    fields = {
        size: 2,
        "micro_batch_size": micro_batch_size,
        "gradient_accumulation_steps": 8 // micro_batch_size,
    }
    model = tiny(family)
    check(run(probe(model, {**fields, **attention})), reference(model, **attention), {})


def test_families_are_named_as_transformers_names_them() -> None:
    assert frozenset().union(*SPLIT_FAMILIES.values()) <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_the_list_of_those_without_sdpa_is_that_of_transformers() -> None:
    def lacks_sdpa(names: str | tuple[str, ...]) -> bool:
        name = names if isinstance(names, str) else names[0]
        return not getattr(transformers, name)._supports_sdpa

    found = {family for family, names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if lacks_sdpa(names)}
    assert found == WITHOUT_SDPA
