"""What would make room where nothing fits: memory, other choices, more of the same GPUs."""

from collections.abc import Callable, Iterator, Mapping

from autotune.hardware.sizes import format_bytes
from search_spaces.columns import Value
from trials.contract.config import TrainingConfig

Fits = Callable[[TrainingConfig, int], bool]
"""Whether a configuration is legal and fits on a world of so many ranks."""

RELAXATIONS: tuple[Mapping[str, Value], ...] = (
    {"micro_batch_size": 1},
    {"activation_checkpointing": "full"},
    {"loss": "chunked"},
    {"sharding": "fsdp"},
    {"sharding": "zero3"},
    {"precision": "bf16_pure"},
    {"optimizer": "adamw_8bit"},
    {"optimizer": "adamw", "sharding": "zero2", "offload": "optimizer"},
    {"optimizer": "adamw", "sharding": "fsdp", "offload": "optimizer_and_parameters"},
    {"adaptation": "lora", "precision": "bf16_pure", "sharding": "ddp"},
    {"adaptation": "lora", "precision": "bf16_pure", "sharding": "ddp", "base_weights": "int4"},
)
"""What is tried, in this order and each added to those before it that do not clash, where nothing fits: from
what costs only speed to what changes the training."""
MAX_TIMES_MORE = 1024
"""How many times the GPUs are looked at, at most, to say how many would do."""


def advice(config: TrainingConfig, world_size: int, short_bytes: int, fits: Fits) -> Iterator[str]:
    """Sentences for `config`, which comes nearest on `world_size` ranks and misses by `short_bytes` each."""
    if short_bytes > 0:
        yield f"{format_bytes(short_bytes)} more per GPU would do"
    if (switch := _switch(config, world_size, fits)) is not None:
        yield f"--set {' --set '.join(f'{name}={value}' for name, value in switch.items())} would fit"
    if (needed := _gpus_needed(config, world_size, fits)) is not None:
        yield f"{needed:,} such GPUs would do"


def _switch(config: TrainingConfig, world_size: int, fits: Fits) -> Mapping[str, Value] | None:
    """The fewest changes, among those tried, under which the configuration fits."""
    changes: dict[str, Value] = {}
    for relaxation in RELAXATIONS:
        for settings in (relaxation, {**changes, **relaxation}):
            changed = {name: value for name, value in settings.items() if getattr(config, name) != value}
            if changed and fits(config.model_copy(update=changed), world_size):
                return changed
        changes |= {name: value for name, value in relaxation.items() if name not in changes}
    return None


def _gpus_needed(config: TrainingConfig, world_size: int, fits: Fits) -> int | None:
    """The smallest power of two times the GPUs over which it fits, sharded and checkpointed if need be."""
    sharded = config.model_copy(update={"sharding": "fsdp"})
    least = sharded.model_copy(update={"activation_checkpointing": "full"})
    times = 2
    while times <= MAX_TIMES_MORE:
        if any(fits(one, world_size * times) for one in (config, sharded, least)):
            return world_size * times
        times *= 2
    return None
