"""What the engines can run, as a table of what they cannot, each row with its reason in words.

A row names the field values it is about and the device it holds on; a configuration is refused when
every condition of a row matches. Adding an option to an engine removes or narrows a row here.
"""

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


@dataclass(frozen=True)
class Refusal:
    """One row: which values, on which device, and why not."""

    values: Mapping[str, Sequence[Any]]
    """Field of TrainingConfig → the values the row is about; all fields must match."""
    reason: str
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
        return all(getattr(config, field) in values for field, values in self.values.items())


def _unprobed(field: str, *values: Any) -> Refusal:
    options = " or ".join(f"{field}={value}" for value in values)
    return Refusal({field: values}, f"no engine probes {options} yet", unprobed=True)


REFUSALS: tuple[Refusal, ...] = (
    # What a device cannot do.
    Refusal({"precision": ("bf16", "bf16_pure")}, "this GPU has no bf16 arithmetic", without="bf16"),
    Refusal({"precision": ("fp8",)}, "this device has no fp8 matmuls", without="fp8"),
    Refusal(
        {"precision": ("fp16",), "sharding": ZERO},
        "DeepSpeed refuses fp16 on CPU",
        on="cpu",
    ),
    Refusal({"attention": ("flash",)}, "flash attention runs on CUDA only", on="cpu"),
    # What does not go together.
    Refusal(
        {"base_weights": ("int8", "int4"), "adaptation": ("full",)},
        "quantised base weights are frozen, so they need adaptation=lora",
    ),
    Refusal(
        {"offload": ("optimizer", "optimizer_and_parameters"), "sharding": ("ddp",)},
        "DDP keeps every state on the device; offload needs ZeRO or FSDP",
    ),
    Refusal(
        {"offload": ("optimizer",), "sharding": ("fsdp", "hsdp")},
        "FSDP offloads parameters and optimizer together: offload=optimizer_and_parameters",
    ),
    Refusal(
        {"offload": ("optimizer",), "sharding": ZERO, "optimizer": ("sgd", "adamw_8bit", "adafactor")},
        "DeepSpeed updates in CPU memory with Adam, AdamW or Lion alone",
    ),
    Refusal(
        {"offload": ("optimizer_and_parameters",), "sharding": ("zero1", "zero2")},
        "parameters can be offloaded under ZeRO-3 only",
    ),
    # What the probe does not run yet.
    _unprobed("precision", "fp8"),
    _unprobed("optimizer", "adamw_8bit", "adafactor", "lion"),
    _unprobed("adaptation", "lora"),
    _unprobed("base_weights", "int8", "int4"),
    _unprobed("quantization_aware", "int8", "int4"),
    _unprobed("attention", "flash"),
    _unprobed("loss", "chunked"),
    _unprobed("compile", True),
    _unprobed("sharding", "hsdp"),
    _unprobed("offload", "optimizer_and_parameters", "activations"),
)

PARALLEL_SIZES_PROBED = 1
"""Tensor, pipeline and context parallel sizes above this are not probed yet."""
UNPROBED_PARALLELISM = "no engine probes tensor, pipeline or context parallelism yet"


def refusals(features: frozenset[Feature], *, to_probe: bool = True) -> tuple[Refusal, ...]:
    """The rows that hold on a device; `to_probe=False` leaves out what is only not probed yet."""
    return tuple(row for row in REFUSALS if row.applies_to(features) and (to_probe or not row.unprobed))


def why_unprobed(config: TrainingConfig, features: frozenset[Feature]) -> str | None:
    """Why no probe of `config` can run yet, though it could be trained; None where one can."""
    for row in refusals(features):
        if row.unprobed and row.matches(config):
            return row.reason
    if config.model_parallel_size > PARALLEL_SIZES_PROBED:
        return UNPROBED_PARALLELISM
    return None


def refusal(config: TrainingConfig, features: frozenset[Feature]) -> str | None:
    """Why no probe of `config` can run on such a device, or None where one can."""
    for row in refusals(features):
        if row.matches(config):
            return row.reason
    if config.model_parallel_size > PARALLEL_SIZES_PROBED:
        return UNPROBED_PARALLELISM
    return None
