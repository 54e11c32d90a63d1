"""The answer of a job as JSON: what `tune`, `resume` and `show` print."""

from typing import Any, Literal

from pydantic import Field

from autotune.jobs import JobStatus
from trials.contract.config import TrainingConfig
from trials.contract.message import Message
from trials.contract.messages import Estimate
from trials.contract.outcome import Outcome

Evidence = Literal["confirmed", "measured", "forecast"]


class Row(Message):
    """One configuration with its figures, measured where they are and forecast where not."""

    config: TrainingConfig
    trial: int | None = None
    """None where the figures are forecast."""
    world_size: int
    tokens_per_second: Estimate
    """Of the whole job, over all devices, per second of wall time."""
    step_s: float
    mfu: float | None = None
    """Model FLOP/s over the devices' peak; None on CPU."""
    peak_bytes: int
    """Of the worst rank."""
    reserved_bytes: int
    memory: dict[str, int]
    """Parts of the peak, which they add up to; where that was measured, split as forecast."""
    evidence: Evidence


class Baseline(Message):
    """The configuration that speed-up is quoted against."""

    config: TrainingConfig
    tokens_per_second: Estimate | None
    reason: str | None
    """Why there is no speed-up over it, where there is none."""


class Recommendation(Message):
    """The chosen configuration with its evidence."""

    config: TrainingConfig
    global_batch_size: int
    """Sequences per optimizer step over all ranks, as it really is."""
    trial: int
    tokens_per_second: Estimate
    peak_bytes: int
    ceiling_bytes: int
    headroom: float
    mfu: float | None
    evidence: Evidence
    baseline: Baseline
    speedup: Estimate | None
    """Over the baseline; None where that has no figure."""
    ties: tuple[Row, ...]
    """Others that are closer than the spread of the probes."""


class Spent(Message):
    trials: int
    seconds: float
    """Wall time of all drivers."""
    gpu_hours: float
    """World size × wall time of all probes that came to a result."""


class Answer(Message):
    """Everything there is to say about a job."""

    job: str
    status: JobStatus
    reason: str | None
    recommendation: Recommendation | None
    """None where nothing fits, or nothing was measured yet."""
    by_length: tuple[Row, ...] = ()
    """The fastest at each sequence length, where several were searched."""
    alternatives: tuple[Row, ...] = ()
    """The next best, fastest first."""
    front: tuple[Row, ...] = ()
    """Measured ones of the recommended length that none other beats in both tokens/s and memory, leanest
    first."""
    counts: dict[Outcome, int] = Field(default_factory=dict)
    spent: Spent

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")
