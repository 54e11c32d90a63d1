"""The baseline of a job whose user names none: what a careful person would try first."""

import numpy as np
from numpy.typing import NDArray

from autotune.search.candidates import Candidates
from trials.contract.config import TrainingConfig

PREFERENCES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("offload", ("none",)),
    ("adaptation", ("full",)),
    ("quantization_aware", ("none",)),
    ("precision", ("bf16", "fp32", "fp16", "bf16_pure")),
    ("activation_checkpointing", ("none", "full", "selective")),
    ("sharding", ("ddp", "zero1", "zero2", "fsdp", "zero3", "hsdp")),
    ("optimizer", ("adamw",)),
    ("attention", ("sdpa",)),
    ("loss", ("eager",)),
)
"""Field → its values from the most to the least usual. An earlier field matters more: sharding is taken
before checkpointing is given up, and checkpointing before precision."""


def default_baseline(candidates: Candidates) -> TrainingConfig:
    """The most usual candidate whose forecast fits, with the largest power-of-two micro-batch.

    The longest sequence decides first, since that is the product. Where no forecast fits, the candidate
    with the smallest one.
    """
    columns = candidates.columns
    chosen = candidates.fits
    if not chosen.any():
        return candidates.config(int(np.argmin(candidates.forecast.device_bytes)))
    chosen = _largest(columns.count("sequence_length"), chosen)
    for field, order in PREFERENCES:
        for value in order:
            having = chosen & columns.is_in(field, [value])
            if having.any():
                chosen = having
                break
    sizes = columns.count("micro_batch_size")
    powers = chosen & ((sizes & (sizes - 1)) == 0)
    chosen = _largest(sizes, powers if powers.any() else chosen)
    return candidates.config(int(np.flatnonzero(chosen)[0]))


def _largest(values: NDArray[np.int64], among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    largest: NDArray[np.bool_] = values == values[among].max()
    return among & largest
