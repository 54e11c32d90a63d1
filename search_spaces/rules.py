"""The rules of models, worlds and batches, as named predicates over plain facts, each with its reason."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from search_spaces.columns import Columns, Counts, Mask
from trials.contract.capabilities import PARALLELISM, SPLIT_FAMILIES, WITHOUT_SDPA, Feature

PARALLEL_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")
SHARDED = ("zero1", "zero2", "zero3", "fsdp", "hsdp")
OFFLOADED_STATES = ("optimizer", "optimizer_and_parameters")
FLOAT8_MULTIPLE = 16
"""Of every side of a float8 matmul."""
WITH_CAPPED_LOGITS = frozenset({"gemma2"})
WITHOUT_LINEARS = frozenset({"gpt2"})
"""Families whose matmuls are transformers' Conv1D."""


@dataclass(frozen=True)
class Facts:
    """What legality depends on besides the configuration."""

    world_size: int
    gpus_per_node: int
    features: frozenset[Feature]
    """Of the device."""
    num_heads: int
    num_kv_heads: int
    num_layers: int
    vocab_size: int
    max_positions: int | None
    """Longest sequence of the model; None where it sets no limit."""
    model_type: str
    tied_embeddings: bool = False
    """Whether head and embedding are one matrix."""
    intermediate_size: int = 0
    """Width of the feed-forward part."""
    stacked_experts: bool = False
    """Whether the feed-forward part is experts, stacked in parameters that are no `nn.Linear`."""
    sliding_window: int | None = None
    """Tokens that attention looks back over in some layers; None where it sees all in every one."""
    global_batch_size: int | None = None
    """Sequences per optimizer step that are asked for; None: whatever comes."""
    global_batch_tolerance: float = 0.10
    """How far off the actual global batch may be, as a share of the one asked for."""
    to_probe: bool = True
    """Whether probes must be able to run it; False where a forecast is enough."""


@dataclass(frozen=True)
class Constraint:
    """A rule that some configurations break."""

    code: str
    fields: tuple[str, ...]
    """What it is about: other values of these may keep it."""
    is_broken: Callable[[Columns, Facts], Mask]
    """Mask of shape (n,) of the rows that break it."""
    reason: Callable[[Columns, Facts], str]
    """One sentence about rows that all break it, with their numbers."""


def _tensor(columns: Columns) -> Counts:
    return columns.count("tensor_parallel_size")


def _stages(columns: Columns) -> Counts:
    return columns.count("pipeline_parallel_size")


def _context(columns: Columns) -> Counts:
    return columns.count("context_parallel_size")


def _model_parallel(columns: Columns) -> Counts:
    return _tensor(columns) * _stages(columns) * _context(columns)


def replicas(columns: Columns, facts: Facts) -> Counts:
    return facts.world_size // _model_parallel(columns)


def _shards(columns: Columns, facts: Facts) -> Counts:
    """Ranks that hold the same parameters, so can split the states: data and context parallel ones."""
    return facts.world_size // (_tensor(columns) * _stages(columns))


def _of_untried_family(size: str) -> Constraint:
    return Constraint(
        f"{size}_of_model",
        (size,),
        lambda c, f: (c.count(size) > 1) & (f.model_type not in SPLIT_FAMILIES[size]),
        lambda c, f: f"no engine probes {PARALLELISM[size]} of a {f.model_type} yet",
    )


def _misses_global_batch(columns: Columns, facts: Facts) -> Mask:
    asked = facts.global_batch_size
    if asked is None:
        return np.zeros(len(columns), dtype=np.bool_)
    sequences = columns.count("micro_batch_size") * columns.count("gradient_accumulation_steps")
    missed_by: Counts = np.abs(sequences * replicas(columns, facts) - asked)
    return missed_by > facts.global_batch_tolerance * asked


def _least(columns: Columns, field: str) -> int:
    return int(columns.count(field).min(initial=np.iinfo(np.int64).max))


def _named(columns: Columns, *fields: str) -> str:
    """`field value, value … and field value` for a reason; many values shrink to their range."""
    return " and ".join(f"{field} {_listed(columns, field)}" for field in fields)


def _listed(columns: Columns, field: str) -> str:
    values = columns.distinct(field)
    if len(values) > 6:
        return f"{values[0]} to {values[-1]}"
    return ", ".join(str(value) for value in values)


STRUCTURE: tuple[Constraint, ...] = (
    Constraint(
        "world_size",
        PARALLEL_SIZES,
        lambda c, f: f.world_size % _model_parallel(c) != 0,
        lambda c, f: (
            f"a world of {f.world_size} ranks does not divide by "
            f"{_named(c, *(size for size in PARALLEL_SIZES if c.distinct(size) != (1,)))}"
        ),
    ),
    Constraint(
        "heads",
        ("tensor_parallel_size",),
        lambda c, f: (f.num_heads % _tensor(c) != 0) | (f.num_kv_heads % _tensor(c) != 0),
        lambda c, f: (
            f"{f.num_heads} attention heads and {f.num_kv_heads} key-value heads do not both divide by "
            f"{_named(c, 'tensor_parallel_size')}"
        ),
    ),
    Constraint(
        "vocabulary",
        ("tensor_parallel_size",),
        lambda c, f: f.vocab_size % _tensor(c) != 0,
        lambda c, f: (
            f"a vocabulary of {f.vocab_size} does not divide by {_named(c, 'tensor_parallel_size')}; pad it"
        ),
    ),
    Constraint(
        "tensor_within_node",
        ("tensor_parallel_size",),
        lambda c, f: f.gpus_per_node % _tensor(c) != 0,
        lambda c, f: (
            f"{_named(c, 'tensor_parallel_size')} does not divide the {f.gpus_per_node} GPUs of a node, and "
            "links between nodes are too slow for it"
        ),
    ),
    Constraint(
        "stages",
        ("pipeline_parallel_size",),
        lambda c, f: _stages(c) > f.num_layers,
        lambda c, f: f"{_named(c, 'pipeline_parallel_size')} is more stages than the {f.num_layers} layers",
    ),
    Constraint(
        "microbatches",
        ("gradient_accumulation_steps", "pipeline_parallel_size"),
        lambda c, f: c.count("gradient_accumulation_steps") < _stages(c),
        lambda c, f: (
            f"{_named(c, 'gradient_accumulation_steps')} is fewer microbatches than the stages of "
            f"{_named(c, 'pipeline_parallel_size')}"
        ),
    ),
    Constraint(
        "schedule",
        ("pipeline_schedule", "pipeline_parallel_size"),
        lambda c, f: ~c.is_in("pipeline_schedule", ["1f1b"]) & (_stages(c) == 1),
        lambda c, f: (
            f"without the stages of a pipeline {_named(c, 'pipeline_schedule')} changes nothing; use "
            "pipeline_schedule=1f1b"
        ),
    ),
    Constraint(
        "max_positions",
        ("sequence_length",),
        lambda c, f: c.count("sequence_length") > (f.max_positions or np.inf),
        lambda c, f: (
            f"{_named(c, 'sequence_length')} is longer than the model's {f.max_positions} positions "
            f"(--set sequence_length={f.max_positions} is the longest it takes)"
        ),
    ),
    Constraint(
        "context_parallel",
        ("sequence_length", "context_parallel_size"),
        lambda c, f: (_context(c) > 1) & (c.count("sequence_length") % (2 * _context(c)) != 0),
        lambda c, f: (
            f"{_named(c, 'sequence_length')} does not divide by twice {_named(c, 'context_parallel_size')}: "
            "each rank has an early and a late piece of a sequence"
        ),
    ),
    Constraint(
        "attention_of_model",
        ("attention",),
        lambda c, f: c.is_in("attention", ["sdpa"]) & (f.model_type in WITHOUT_SDPA),
        lambda c, f: f"{f.model_type} has no sdpa attention; use attention=eager",
    ),
    Constraint(
        "quantised_experts",
        ("base_weights",),
        lambda c, f: ~c.is_in("base_weights", ["native"]) & f.stacked_experts,
        lambda c, f: "experts are stacked parameters, which are not quantised; use base_weights=native",
    ),
    Constraint(
        "tied_embeddings",
        ("tensor_parallel_size", "pipeline_parallel_size"),
        lambda c, f: f.tied_embeddings & ((_tensor(c) > 1) | (_stages(c) > 1)),
        lambda c, f: (
            "this model ties its head to its embedding, which tensor and pipeline parallelism keep apart"
        ),
    ),
    Constraint(
        "chunked_loss",
        ("loss",),
        lambda c, f: c.is_in("loss", ["chunked"]) & (f.model_type in WITH_CAPPED_LOGITS),
        lambda c, f: f"loss=chunked would miss the cap on the logits of {f.model_type}; use loss=eager",
    ),
    Constraint(
        "converted_linears",
        ("base_weights", "quantization_aware", "precision"),
        lambda c, f: (
            (
                ~c.is_in("base_weights", ["native"])
                | ~c.is_in("quantization_aware", ["none"])
                | c.is_in("precision", ["fp8"])
            )
            & (f.model_type in WITHOUT_LINEARS)
        ),
        lambda c, f: (
            f"the layers of {f.model_type} have no nn.Linear, so nothing of them can be quantised or "
            "multiplied in float8"
        ),
    ),
    Constraint(
        "float8_tokens",
        ("precision", "micro_batch_size", "sequence_length"),
        lambda c, f: (
            c.is_in("precision", ["fp8"])
            & (c.count("micro_batch_size") * c.count("sequence_length") % FLOAT8_MULTIPLE != 0)
        ),
        lambda c, f: (
            f"float8 matmuls take a multiple of {FLOAT8_MULTIPLE} tokens, which "
            f"{_named(c, 'micro_batch_size', 'sequence_length')} is not"
        ),
    ),
    Constraint(
        "lora_rank",
        ("lora_rank", "adaptation"),
        lambda c, f: ~c.is_in("adaptation", ["lora"]) & (c.count("lora_rank") > _least(c, "lora_rank")),
        lambda c, f: f"without adaptation=lora another lora_rank ({_listed(c, 'lora_rank')}) changes nothing",
    ),
    Constraint(
        "hsdp_nodes",
        ("sharding",),
        lambda c, f: c.is_in("sharding", ["hsdp"]) & (f.world_size <= f.gpus_per_node),
        lambda c, f: (
            f"hsdp replicates across nodes, and the {f.world_size} ranks are on one; use sharding=fsdp"
        ),
    ),
    Constraint(
        "nothing_to_shard",
        ("sharding", "offload"),
        lambda c, f: (
            (_shards(c, f) == 1) & c.is_in("sharding", SHARDED) & ~c.is_in("offload", OFFLOADED_STATES)
        ),
        lambda c, f: (
            f"with one data-parallel rank and nothing offloaded, {_named(c, 'sharding')} splits nothing; use "
            "sharding=ddp"
        ),
    ),
    Constraint(
        "global_batch_size",
        ("micro_batch_size",),
        _misses_global_batch,
        lambda c, f: (
            f"{_named(c, 'micro_batch_size', 'gradient_accumulation_steps')} on {f.world_size} ranks misses "
            f"the global batch of {f.global_batch_size} by more than {f.global_batch_tolerance:.0%}"
        ),
    ),
)
"""Rules of the model, the world and the batch."""

PROBED: tuple[Constraint, ...] = (
    Constraint(
        "split_evenly",
        ("tensor_parallel_size", "sequence_length"),
        lambda c, f: (c.count("sequence_length") % _tensor(c) != 0) | (f.intermediate_size % _tensor(c) != 0),
        lambda c, f: (
            f"{_named(c, 'sequence_length')} and a feed-forward width of {f.intermediate_size} do not both "
            f"divide by {_named(c, 'tensor_parallel_size')}"
        ),
    ),
    Constraint(
        "experts_by_tensor",
        ("tensor_parallel_size",),
        lambda c, f: (_tensor(c) > 1) & f.stacked_experts,
        lambda c, f: "no engine probes tensor parallelism of experts yet",
    ),
    Constraint(
        "window",
        ("tensor_parallel_size", "context_parallel_size", "sequence_length"),
        lambda c, f: (
            ((_tensor(c) > 1) | (c.count("context_parallel_size") > 1))
            & (c.count("sequence_length") >= (np.inf if f.sliding_window is None else f.sliding_window))
        ),
        lambda c, f: (
            f"some layers look back over {f.sliding_window} tokens only, which tensor and context "
            f"parallelism do not do yet; use a shorter sequence than {_named(c, 'sequence_length')}"
        ),
    ),
    Constraint(
        "tensor_parallel_replicas",
        ("sharding", "tensor_parallel_size"),
        lambda c, f: c.is_in("sharding", ["ddp"]) & (_tensor(c) > 1) & (_shards(c, f) > 1),
        lambda c, f: (
            "DDP does not average gradients that tensor-parallel ranks share; use sharding=fsdp, or "
            "tensor_parallel_size of the whole world"
        ),
    ),
    *map(_of_untried_family, PARALLEL_SIZES),
)
"""Rules of what could be trained and no probe runs yet, besides the table of capabilities."""
