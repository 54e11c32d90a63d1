"""Why a job's recommendation is what it is, as JSON: what `autotune explain` prints."""

from typing import Any, Literal

from trials.contract.config import TrainingConfig
from trials.contract.message import Message
from trials.contract.messages import Estimate

Source = Literal["measured", "forecast"]
Bound = Literal["memory", "compute", "communication"]


class Step(Message):
    """The recommended configuration with one field changed."""

    value: str | int | bool
    source: Source
    """Whether its figures were measured, or are the forecast that the job's probes have corrected."""
    tokens_per_second: float | None
    """None where it ran to no figure."""
    speed_change: float | None
    """Share by which that differs from the recommended one's."""
    peak_bytes: int | None
    bytes_change: int | None
    fits: bool
    why_not: str | None
    """Why it is out of the question; None where it merely is not as fast."""
    is_too_large: bool = False
    """Whether that is for want of memory."""


class Knob(Message):
    """One field, and what its other values would cost."""

    field: str
    value: str | int | bool
    """As recommended."""
    steps: tuple[Step, ...]


class Rival(Message):
    """Another configuration that was probed and is not what is recommended."""

    config: TrainingConfig
    trial: int
    changes: tuple[str, ...]
    """Fields in which it differs from the recommended one, as `field: from → to`."""
    tokens_per_second: Estimate | None
    """None where it ran to no figure."""
    peak_bytes: int | None
    """None where it ran out of memory, or was not seen to hold anything."""
    why_not: str
    """Why it is not what is recommended, in words."""


class Bounds(Message):
    """What keeps the recommended configuration from being faster."""

    bound: Bound
    reason: str
    seconds: dict[str, float]
    """Forecast parts of its step, in proportion to the measured one, which they add up to."""


class Cost(Message):
    """What the search cost, and when it has paid for itself."""

    seconds: float
    gpu_hours: float
    pays_after_hours: float | None
    """Hours of training at the recommended speed that, against the baseline, save the time of the search;
    None where the gain is not sure enough for there to be anything to save."""


class JobExplanation(Message):
    """Everything that speaks for and against a recommendation."""

    job: str
    config: TrainingConfig
    trial: int
    tokens_per_second: Estimate
    peak_bytes: int
    usable_bytes: int
    knobs: tuple[Knob, ...]
    """The fields that the space searched, in its order."""
    rivals: tuple[Rival, ...]
    """What came next, fastest first, then what was or promised to be faster and does not fit or not run."""
    bounds: Bounds
    speedup: Estimate | None
    """Over the baseline."""
    no_speedup: str | None
    """Why there is none to quote."""
    baseline_steps: tuple[str, ...]
    """Fields in which the recommendation differs from the baseline, as `field: from → to`."""
    cost: Cost
    notes: tuple[str, ...]
    """What the probes do not see."""

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")
