"""Engine constants that matter to memory and speed but are not searched.

One table, read by the probe that sets them, the forecast that counts them and the export that writes
them; every result carries the ones it was measured under.
"""

from trials.contract.message import Message

PROTOCOL_VERSION = 2
"""Raised when a change of the probe makes older measurements incomparable."""

LEARNING_RATE = 1e-4
"""Of every probe; small enough to stay finite from random weights. A real run has its own."""

LOSS_CHUNKS = 8
"""Pieces of `loss=chunked`: torchtitan's default."""


class EngineConstants(Message):
    deepspeed_bucket_elements: int
    """`reduce_bucket_size`, `allgather_bucket_size` and `stage3_prefetch_bucket_size` of DeepSpeed."""
    deepspeed_sub_group_elements: int = 1_000_000_000
    """`sub_group_size` of ZeRO-3: parameters updated at a time."""
    ddp_bucket_mib: int = 25
    """`bucket_cap_mb` of DistributedDataParallel."""
    ddp_gradient_as_bucket_view: bool = True
    """Gradients are views into DDP's buckets, so they exist once, not twice."""
    gradient_clip_norm: float = 1.0
    """Global gradient norm that every engine clips to, as real runs do."""
    cuda_allocator: str = "expandable_segments:True"
    """PYTORCH_CUDA_ALLOC_CONF of a probe, and of the exported launch script."""
    cpu_mmap_threshold_bytes: int = 1 << 20
    """Blocks from this size glibc's malloc gives back to the system when they are freed (M_MMAP_THRESHOLD and
    M_TRIM_THRESHOLD). Left alone it keeps those of up to 32 MiB, by how they happen to lie: peaks were 5 to
    19 % larger."""
    cpu_huge_pages: bool = True
    """THP_MEM_ALLOC_ENABLE: torch asks for huge pages, which takes back some of what it costs to fetch those
    blocks anew."""
    cpu_kept_primitives: int = 64
    """Operators of oneDNN that are kept for shapes to come (ONEDNN_PRIMITIVE_CACHE_CAPACITY, and
    LRU_CACHE_CAPACITY of what torch keeps of them). Left alone, 1,024 are: experts have another number of
    tokens in each step, so that memory grew with every step, by two thirds in bf16_pure."""
    fused_optimizer: bool = True
    """torch's fused optimizer step: the fastest, and without a temporary copy of the parameters."""
    fsdp_reduce_every_microbatch: bool = True
    """Gradients stay sharded while accumulating; the alternative keeps them whole for less traffic."""


def engine_constants(num_parameters: int) -> EngineConstants:
    """The constants for a model of `num_parameters`.

    The bucket is capped at DeepSpeed's default of 5e8 elements: with the default itself, two buckets
    of a small model would outweigh the model.
    """
    return EngineConstants(deepspeed_bucket_elements=int(min(5e8, max(1e6, num_parameters / 4))))
