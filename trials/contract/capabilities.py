"""What the engines can run, as a table of what they cannot, each row with its reason in words.

A row names the field values it is about and the device it holds on; a configuration is refused when
every condition of a row matches. Adding an option to an engine removes or narrows a row here.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from trials.contract.config import Sharding, TrainingConfig

EngineName = Literal["native", "fsdp", "zero"]

ENGINE_OF_SHARDING: Mapping[Sharding, EngineName] = MappingProxyType(
    {
        "ddp": "native",
        "fsdp": "fsdp",
        "hsdp": "fsdp",
        "zero1": "zero",
        "zero2": "zero",
        "zero3": "zero",
    }
)

Feature = Literal["cpu", "cuda", "bf16", "fp16", "fp8"]
"""What a device can be asked for; `features` of an inventory's device is a set of these."""

ZERO = ("zero1", "zero2", "zero3")
FSDP = ("fsdp", "hsdp")
QUANTISED = ("int8", "int4")
OFFLOADED_STATES = ("optimizer", "optimizer_and_parameters")
TENSOR, PIPELINE, CONTEXT = "tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size"
PARALLELISM: Mapping[str, str] = MappingProxyType(
    {TENSOR: "tensor parallelism", PIPELINE: "a pipeline", CONTEXT: "context parallelism"}
)

_PLAIN = ("llama", "mistral", "qwen2", "qwen3", "granite", "smollm3", "gemma", "gemma3_text", "starcoder2")
_WITH_EXPERTS = ("mixtral", "qwen3_moe")
SPLIT_FAMILIES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        TENSOR: frozenset(_PLAIN),
        PIPELINE: frozenset({*_PLAIN, *_WITH_EXPERTS, "phi3", "olmo2", "gpt_oss"} - {"granite"}),
        CONTEXT: frozenset(
            {*_PLAIN, *_WITH_EXPERTS, "phi3", "olmo2", "cohere", "deepseek_v3", "gpt_neox", "opt", "stablelm"}
        ),
    }
)
"""Parallel size → the model types whose splitting trains as one process does, which the tests show of each.

Of others it is not known: they may do more between layers, or look further than attention, than is split.
"""
WITHOUT_SDPA = frozenset(
    {
        "big_bird",
        "bigbird_pegasus",
        "bloom",
        "codegen",
        "cpmant",
        "deepseek_v4",
        "falcon_mamba",
        "flint",
        "gemma2",
        "git",
        "got_ocr2",
        "gpt_neo",
        "gpt_neox_japanese",
        "gpt_oss",
        "gptj",
        "granite_swa",
        "granitemoe_swa",
        "hy_v4",
        "inkling2_text",
        "mamba",
        "mamba2",
        "megatron-bert",
        "mimo_v2_flash",
        "mpt",
        "mvp",
        "openai-gpt",
        "prophetnet",
        "reformer",
        "rembert",
        "roformer",
        "rwkv",
        "trocr",
        "vaultgemma",
        "xglm",
        "xlm",
        "xlnet",
        "xlstm",
    }
)
"""Model types whose attention has no sdpa kernel: `_supports_sdpa = False` in transformers 5.23."""


@dataclass(frozen=True)
class Refusal:
    """One row: which values, on which device, and why not."""

    values: Mapping[str, Sequence[Any]]
    """Field of TrainingConfig → the values the row is about; all fields must match."""
    reason: str
    parallel: Sequence[str] = ()
    """Parallel sizes that must all be more than 1."""
    on: Feature | None = None
    """Only on devices with this feature."""
    without: Feature | None = None
    """Only on devices without this feature."""
    unprobed: bool = False
    """True where the option exists but the probe cannot run it yet; a forecast can still be made."""

    def applies_to(self, features: frozenset[Feature]) -> bool:
        return (self.on is None or self.on in features) and (
            self.without is None or self.without not in features
        )

    def matches(self, config: TrainingConfig) -> bool:
        split = all(getattr(config, size) > 1 for size in self.parallel)
        return split and all(getattr(config, field) in values for field, values in self.values.items())


REFUSALS: tuple[Refusal, ...] = (
    # What a device cannot do.
    Refusal({"precision": ("bf16", "bf16_pure")}, "this GPU has no bf16 arithmetic", without="bf16"),
    Refusal({"precision": ("fp8",)}, "this GPU has no fp8 matmuls", on="cuda", without="fp8"),
    Refusal(
        {"precision": ("fp16",), "sharding": ZERO},
        "DeepSpeed refuses fp16 on CPU",
        on="cpu",
    ),
    Refusal({"attention": ("flash",)}, "flash attention runs on CUDA only", on="cpu"),
    Refusal(
        {"attention": ("flash",)},
        "flash attention needs a GPU of Ampere's generation or a later one",
        on="cuda",
        without="bf16",
    ),
    # What does not go together.
    Refusal(
        {"base_weights": QUANTISED, "adaptation": ("full",)},
        "quantised base weights are frozen, so they need adaptation=lora",
    ),
    Refusal(
        {"quantization_aware": QUANTISED, "adaptation": ("lora",)},
        "no engine rounds the sum of a frozen weight and its adapter yet",
    ),
    Refusal(
        {"precision": ("fp8",), "adaptation": ("lora",)},
        "float8 matmuls are for weights that are trained; quantise the frozen ones (base_weights)",
    ),
    Refusal(
        {"precision": ("fp8",), "quantization_aware": QUANTISED},
        "a linear is either multiplied in float8 or fake-quantised, not both",
    ),
    Refusal(
        {"offload": ("activations",), "activation_checkpointing": ("selective", "full")},
        "no engine offloads what checkpointed layers keep yet",
    ),
    Refusal(
        {"offload": OFFLOADED_STATES, "sharding": ("ddp",)},
        "DDP keeps every state on the device; offload needs ZeRO or FSDP",
    ),
    Refusal(
        {"offload": ("optimizer",), "sharding": FSDP},
        "FSDP offloads parameters and optimizer together: offload=optimizer_and_parameters",
    ),
    Refusal(
        {"offload": OFFLOADED_STATES, "sharding": ZERO, "optimizer": ("sgd", "adamw_8bit", "adafactor")},
        "DeepSpeed updates in CPU memory with Adam, AdamW or Lion alone",
    ),
    Refusal(
        {"precision": ("bf16_pure",), "optimizer": ("lion",), "offload": OFFLOADED_STATES, "sharding": ZERO},
        "DeepSpeed keeps bf16 masters in CPU memory with Adam and AdamW alone",
    ),
    Refusal(
        {"offload": ("optimizer_and_parameters",), "sharding": ("zero1", "zero2")},
        "parameters can be offloaded under ZeRO-3 only",
    ),
    Refusal(
        {"base_weights": QUANTISED, "sharding": ("zero3",)},
        "ZeRO-3 partitions weights of floating-point formats alone; quantised ones go with zero1, zero2, "
        "fsdp or ddp",
    ),
    Refusal(
        {"optimizer": ("adafactor",), "sharding": (*FSDP, *ZERO)},
        "Adafactor keeps factors of whole rows and columns, which a shard does not have; use sharding=ddp",
    ),
    Refusal(
        {"optimizer": ("adamw_8bit",), "sharding": ZERO},
        "ZeRO flattens what it updates, and 8-bit states are kept of whole blocks alone; use fsdp or ddp",
    ),
    Refusal(
        {"attention": ("flash",), "precision": ("fp32",)},
        "flash attention computes in two bytes, not in fp32",
    ),
    # What several ranks do together.
    Refusal(
        {"attention": ("eager",)},
        "no engine masks eager attention under tensor parallelism yet; use attention=sdpa",
        parallel=(TENSOR,),
    ),
    Refusal(
        {"attention": ("eager",)},
        "context parallelism needs a fused attention kernel, not attention=eager",
        parallel=(CONTEXT,),
    ),
    Refusal(
        {"optimizer": ("adafactor",)},
        "Adafactor keeps factors of whole rows and columns, which tensor parallelism splits",
        parallel=(TENSOR,),
    ),
    Refusal(
        {"attention": ("flash",)},
        "context parallelism attends by PyTorch's kernel, not attention=flash",
        parallel=(CONTEXT,),
    ),
    Refusal(
        {"sharding": ("zero2", "zero3")},
        "DeepSpeed's pipeline goes with ZeRO-1 at most; use sharding=zero1, ddp or fsdp",
        parallel=(PIPELINE,),
    ),
    Refusal(
        {"precision": ("fp16",)},
        "no engine scales a pipeline's loss yet; use bf16",
        parallel=(PIPELINE,),
    ),
    # What no probe runs yet, though it could be trained.
    *(
        Refusal(values, f"no engine probes {words} with {parallelism} yet", parallel=(size,), unprobed=True)
        for size, parallelism in PARALLELISM.items()
        for values, words in (
            ({"sharding": ZERO}, "ZeRO"),
            ({"sharding": ("hsdp",)}, "HSDP"),
            ({"adaptation": ("lora",)}, "LoRA"),
            ({"quantization_aware": QUANTISED}, "quantisation-aware training"),
            ({"precision": ("fp8",)}, "float8"),
            ({"loss": ("chunked",)}, "a chunked loss"),
        )
    ),
    # Compiled, a layer fails to gather what ranks have apart, and one that masks by rank is left as it is.
    *(
        Refusal(
            {"compile": (True,)},
            f"no engine compiles layers under {PARALLELISM[size]} yet",
            parallel=(size,),
            unprobed=True,
        )
        for size in (TENSOR, CONTEXT)
    ),
    Refusal(
        {"activation_checkpointing": ("selective",)},
        "no engine probes selective checkpointing with context parallelism yet",
        parallel=(CONTEXT,),
        unprobed=True,
    ),
    *(
        Refusal(
            {},
            f"no engine probes {PARALLELISM[one]} with {PARALLELISM[other]} yet",
            parallel=(one, other),
            unprobed=True,
        )
        for one, other in itertools.combinations(PARALLELISM, 2)
    ),
)


def refusals(features: frozenset[Feature], *, to_probe: bool = True) -> tuple[Refusal, ...]:
    """The rows that hold on a device; `to_probe=False` leaves out what is only not probed yet."""
    return tuple(row for row in REFUSALS if row.applies_to(features) and (to_probe or not row.unprobed))


def refusal(config: TrainingConfig, features: frozenset[Feature]) -> str | None:
    """Why no probe of `config` can run on such a device, or None where one can."""
    for row in refusals(features):
        if row.matches(config):
            return row.reason
    return None
