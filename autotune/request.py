"""`TuneRequest` and `PlanRequest`: what is asked for in the user's own words, and what they stand for."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

from autotune.errors import BadInput, about
from autotune.hardware.cpu import cpu_cores
from autotune.hardware.inventory import NodeGroup
from autotune.hardware.parse import parse_inventory
from autotune.hardware.sizes import format_bytes, parse_size
from autotune.jobs import JobSpec
from autotune.models.resolve import resolve
from autotune.models.shape import ModelShape
from search_spaces.columns import Value
from search_spaces.space import SearchSpace
from trials.contract.config import TrainingConfig
from trials.contract.message import ContractError

UNNAMED = "unnamed"
"""Until the database gives a job its name."""
LENGTH = "sequence_length"
LEAST_BYTES = 1 << 20
"""Of a ceiling without a unit, which is more likely forgotten than meant."""


@dataclass(frozen=True)
class TuneRequest:
    """A job in the user's own words; what is None is for autotune to decide."""

    model: str | Mapping[str, Any]
    """As `resolve` takes it: in a word, or the object of a Hugging Face config.json."""
    gpus: str | Mapping[str, Any] = "auto"
    """As `parse_inventory` takes it: in a word, or the object of an inventory file."""
    name: str | None = None
    ceiling: str | None = None
    headroom: float = 0.05
    space: str | Mapping[str, Any] | None = None
    """A shipped name, a YAML file, or the object that one holds."""
    settings: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    baseline: TrainingConfig | None = None
    """Only the fields that were set count; the others are as in the baseline that autotune would choose."""
    global_batch_size: int | None = None
    global_batch_tolerance: float = 0.10
    min_speed: float = 0.0
    trials: int = 24
    minutes: float | None = None
    gpu_hours: float | None = None
    sampler: str = "cost_model"
    stop_below: float = 0.01
    seed: int = 0
    probe_seconds: float = 10.0
    repeats: int = 1
    fresh: bool = False
    executor: str = "ray"
    ray_address: str | None = None
    model_name: str | None = None
    """What people shall call the model; None: as `resolve` does."""

    @property
    def digest(self) -> str:
        """The same for the same words, whatever follows from them and wherever probes would run."""
        words = {name: value for name, value in vars(self).items() if name != "ray_address"}
        return sha256(json.dumps(words, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: TrainingConfig | Mapping[str, Any]) -> dict[str, Any]:
    return value.model_dump(exclude_unset=True) if isinstance(value, TrainingConfig) else dict(value)


@dataclass(frozen=True)
class PlanRequest:
    """A question in the user's own words; what is None is for autotune to decide."""

    model: str | Mapping[str, Any]
    gpus: str | Mapping[str, Any] = "auto"
    ceiling: str | None = None
    headroom: float = 0.05
    space: str | Mapping[str, Any] | None = None
    settings: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    global_batch_size: int | None = None
    global_batch_tolerance: float = 0.10
    top: int = 10
    trace: int = 0
    """How many of the best are traced on the real model."""
    ray_address: str | None = None
    storage: str | None = None
    """URL of the database whose measurements calibrate the forecast; None: of none."""
    model_name: str | None = None


def specify(request: TuneRequest) -> JobSpec:
    """The user's words, resolved and frozen. Raises BadInput."""
    with about("model"):
        model = resolve(request.model, request.model_name)
    # Probes of the other executors run on this machine, whatever cluster the environment names.
    cluster = request.ray_address if request.executor == "ray" else None
    with about("gpus"):
        inventory = parse_inventory(request.gpus, cluster)
    group = inventory.group
    with about("gpu_hours"):
        if request.gpu_hours is not None and group.gpu.kind == "cpu":
            raise BadInput("--gpu-hours bounds probes on GPUs, and these are CPUs; use --minutes")
    try:
        chosen = default_spaces(group)[0][0] if request.space is None else request.space
        space, shortened = space_for(chosen, request.settings, model.shape)
    except ContractError as error:
        with about("space"):
            raise BadInput(str(error)) from error
    try:
        return JobSpec.parse(
            {
                "name": request.name or UNNAMED,
                "model": model.spec,
                "shape": asdict(model.shape),
                "notes": (*model.notes, *shortened, *_notes(group, cluster)),
                "gpus": request.gpus if isinstance(request.gpus, str) else str(inventory),
                "inventory": inventory.to_dict(),
                "world_size": space.world_size or group.world_size,
                "ceiling_bytes": ceiling_bytes(request.ceiling, group),
                "headroom": request.headroom,
                "space": space.model_dump(mode="json"),
                "global_batch_size": request.global_batch_size,
                "global_batch_tolerance": request.global_batch_tolerance,
                "baseline": request.baseline and request.baseline.model_dump(exclude_unset=True),
                "min_speed": request.min_speed,
                "trials": request.trials,
                "minutes": request.minutes,
                "gpu_hours": request.gpu_hours,
                "sampler": request.sampler,
                "stop_below": request.stop_below,
                "seed": request.seed,
                "probe_seconds": request.probe_seconds,
                "repeats": request.repeats,
                "fresh": request.fresh,
                "executor": request.executor,
                "ray_address": request.ray_address,
            }
        )
    except ContractError as error:
        raise BadInput(str(error)) from error


def ceiling_bytes(text: str | None, group: NodeGroup) -> int:
    """What one rank may use; raises BadInput where no device has so much."""
    device_bytes = group.gpu.memory_bytes
    with about("ceiling"):
        size = device_bytes if text is None else parse_size(text, device_bytes)
        if size < LEAST_BYTES and text is not None and text.strip().isdigit():
            raise BadInput(f"--ceiling {text} is so many bytes; with its unit it is {text.strip()}GiB")
        if size > device_bytes:
            raise BadInput(
                f"--ceiling {text} is more than the {format_bytes(device_bytes)} of {group.gpu.name}"
            )
    return size


def _notes(group: NodeGroup, ray_address: str | None) -> Iterator[str]:
    cores = cpu_cores()
    if group.gpu.kind == "cpu" and ray_address is None and group.gpus_per_node > cores:
        yield (
            f"{group.gpus_per_node} ranks share the {cores} cores of this machine; with a core each they "
            "would be faster"
        )


def space_for(
    given: str | Mapping[str, Any], settings: Mapping[str, Sequence[Value]], shape: ModelShape
) -> tuple[SearchSpace, tuple[str, ...]]:
    """The space, and what was changed in it: a length that nobody asked for gives way to the model's.

    Raises ContractError.
    """
    space = SearchSpace.load(given).narrowed(settings)
    shipped = isinstance(given, str) and given in SearchSpace.names()
    asked_for = LENGTH in settings or (not shipped and LENGTH in space.dimensions)
    longest = shape.max_positions
    usual = space.dimensions.get(LENGTH, (TrainingConfig().sequence_length,))
    if asked_for or longest is None or all(int(length) <= longest for length in usual):
        return space, ()
    lengths = tuple(dict.fromkeys(min(int(length), longest) for length in usual))
    note = (
        f"{LENGTH} is at most {longest}, the positions of the model, not {max(usual)} as in the space "
        f"{given if isinstance(given, str) else space.name}"
    )
    return space.narrowed({LENGTH: lengths}), (note,)


def default_spaces(group: NodeGroup) -> tuple[tuple[str, ...], ...]:
    """The spaces where the user names none: the very first to search, all for a plan to look at in turn.

    Those of full training come first; others that change what is trained are looked at only where nothing
    of the first fits.
    """
    if group.gpu.kind == "cpu":
        return (("cpu",),)
    if group.world_size == 1:
        return (("single_gpu",), ("lora",))
    return (("fsdp", "zero", "three_d"), ("lora",))
