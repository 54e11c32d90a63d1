"""A plan as JSON: what `autotune plan` prints, from the forecast alone."""

from typing import Any

from trials.contract.config import TrainingConfig
from trials.contract.message import Message
from trials.contract.messages import StepPhase


class PlanRow(Message):
    """One configuration with its forecast."""

    config: TrainingConfig
    gpus: str
    """What it runs on, such as `8 × H100-80GB`."""
    world_size: int
    num_nodes: int
    """Over which its ranks are spread."""
    ceiling_bytes: int
    """Device bytes one rank may use there."""
    tokens_per_second: float
    """Of the whole job, over all devices."""
    step_s: float
    mfu: float | None
    """Model FLOP/s over the devices' peak; None on CPU."""
    peak_bytes: int
    """Of the worst rank: its tensors, and what lies outside them."""
    reserved_bytes: int
    """What the allocator holds for the tensors; `fixed` comes on top of it."""
    host_bytes: int
    """CPU memory of a node that offloading takes."""
    memory: dict[str, int]
    """Parts of the peak, which they add up to."""
    fits: bool
    unprobed: str | None = None
    """Why no probe can run it yet; None where `autotune tune` would."""
    traced_bytes: int | None = None
    """Peak of the tensors, found on the real model with fake tensors; None where it was not traced."""

    @property
    def device_bytes(self) -> int:
        """What the ceiling counts: the allocator's holdings, and what lies outside them."""
        return self.reserved_bytes + self.memory["fixed"]


class Rejected(Message):
    """Configurations that are illegal, or do not fit, for one reason."""

    code: str
    reason: str
    count: int


class Plan(Message):
    """Everything a forecast says about a model on an inventory."""

    model: str
    parameters: int
    gpus: str
    space: str
    ceiling_bytes: int
    """Device bytes one rank may use; of several node groups those of the first row's."""
    headroom: float
    calibrated_by: int = 0
    """Measurements on the same hardware that the forecast was corrected by."""
    candidates: int
    """Legal configurations, all of which were forecast."""
    fitting: int
    ranked: tuple[PlanRow, ...]
    """The fastest that fit, the fastest first."""
    nearest: PlanRow | None = None
    """Where nothing fits, what needs least."""
    advice: tuple[str, ...] = ()
    """Where nothing fits, what would help, in words."""
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class Explanation(Message):
    """Where the memory and the time of one configuration go."""

    config: TrainingConfig
    gpus: str
    world_size: int
    ceiling_bytes: int
    headroom: float
    fits: bool
    peak_bytes: int
    reserved_bytes: int
    host_bytes: int
    """CPU memory of a node that offloading takes."""
    usable_host_bytes: int | None
    """What it may take; None where that is not known."""
    phases: dict[StepPhase, dict[str, int]]
    """Phase of a step → bytes by part, at the phase's heaviest moment on the worst rank."""
    tokens_per_second: float
    step_s: float
    seconds: dict[str, float]
    """What the step's time is spent on, in seconds; they add up to `step_s`."""
    mfu: float | None
    unprobed: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")
