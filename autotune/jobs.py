"""`JobSpec`, what a user asked for; `Job`, what has become of it; which status may follow which."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, field_validator

from autotune.errors import WrongStatus
from trials.contract.config import Count, TrainingConfig
from trials.contract.message import Message
from trials.contract.messages import ModelSpec


class JobSpec(Message):
    """A job as it was asked for. Frozen at submission: to ask for something else, submit another job."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """What the user and the Optuna study call it; unique in its database."""
    model: ModelSpec
    """What is trained."""
    shape: dict[str, Any]
    """Its sizes (`ModelShape`), so that a factory is measured once."""
    notes: tuple[str, ...] = ()
    """Sentences on what was left out of the request, or assumed."""
    gpus: str
    """The inventory in the words it was asked for, such as `auto` or `2x8xH100-80GB`."""
    inventory: dict[str, Any]
    """What those words stood for at submission, as JSON."""
    world_size: Count
    """Ranks of a training run; one device each."""
    ceiling_bytes: int = Field(gt=0)
    """Device bytes one rank may use, context and communicators included."""
    headroom: float = Field(default=0.05, ge=0, lt=1)
    """Share of the ceiling that must stay free."""
    space: dict[str, Any]
    """The search space with every choice written out, so that an edited file cannot change a running job."""
    global_batch_size: Count | None = None
    """Sequences per optimizer step over all ranks; None leaves it to the micro-batch."""
    global_batch_tolerance: float = Field(default=0.1, ge=0, lt=1)
    """Share by which the actual global batch may miss `global_batch_size`."""
    baseline: dict[str, Any] | None = None
    """What the user said of their present configuration, by field; None lets autotune choose one."""
    chosen_baseline: TrainingConfig | None = None
    """The whole configuration that speed-up is quoted against, theirs or ours; None until it is worked out,
    before the job is recorded."""
    min_speed: float = Field(default=0.0, ge=0, lt=1)
    """Share of the fastest length's tokens/s that the recommended length has to reach; 0: the longest that
    fits, however slow."""
    trials: Count = 24
    """Most trials that may count."""
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Wall minutes after which no further trial begins; None: no such bound."""
    gpu_hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """GPU-hours of probes after which no further trial begins; None: no such bound."""
    sampler: str = "cost_model"
    """Who proposes the next configuration."""
    stop_below: float = Field(default=0.01, ge=0, lt=1)
    """Share of the best so far: where no candidate is expected to beat it by more, the search ends; 0 spends
    the whole budget."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of sampler and probes."""
    probe_seconds: float = Field(default=10.0, gt=0, le=3600)
    """Seconds of measured steps after which a trial's probe begins no further one."""
    repeats: Count = 1
    """Probes of every configuration, where a table of measurements is wanted."""
    fresh: bool = False
    """Measure again what earlier jobs have measured already."""
    executor: Literal["ray", "local"] = "ray"
    """Where probes run: on Ray workers, or on this machine without Ray."""
    ray_address: str | None = None
    """A running Ray cluster; None starts a local one."""

    @property
    def usable_bytes(self) -> int:
        """Ceiling less headroom: what a peak may be at most to count as fitting."""
        return int(self.ceiling_bytes * (1 - self.headroom))

    @field_validator("baseline")
    @classmethod
    def _fields_of_a_config(cls, given: dict[str, Any] | None) -> dict[str, Any] | None:
        return given and TrainingConfig.parse(given).model_dump(mode="json", exclude_unset=True)


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = MappingProxyType(
    {
        JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELLED}),
        # Running follows running when a new driver goes on where one died without a word.
        # Queued follows it when a worker gives a job back, for another to go on with.
        JobStatus.RUNNING: frozenset(JobStatus),
        JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.CANCELLED}),
        JobStatus.FINISHED: frozenset(),
        JobStatus.FAILED: frozenset({JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.CANCELLED}),
        JobStatus.CANCELLED: frozenset(),
    }
)
"""Each status with those that may follow it. A failed job may be taken up again, for what failed it may
be mended; finished and cancelled are final."""

RESUMABLE: frozenset[JobStatus] = frozenset(
    status for status, following in TRANSITIONS.items() if JobStatus.RUNNING in following
)
"""From where a job can be driven on."""


def check_transition(old: JobStatus, new: JobStatus) -> None:
    """Raise WrongStatus where a job that is `old` cannot become `new`."""
    following = TRANSITIONS[old]
    if not following:
        raise WrongStatus(f"a job that is {old} has ended, and stays so")
    if new not in following:
        raise WrongStatus(f"a job that is {old} cannot become {new}, only {', '.join(sorted(following))}")


@dataclass(frozen=True)
class Job:
    """A job as the database has it at the moment it was read."""

    id: int
    spec: JobSpec
    status: JobStatus
    reason: str | None
    """One sentence: why the status is what it is, where that needs saying."""
    created_at: datetime
    """UTC, as every time here."""
    updated_at: datetime
    spent_s: float
    """Wall seconds spent on it by all its drivers."""
    driver: str | None
    """Who drives it, in words; None where no living driver is known, whatever the status says."""

    @property
    def name(self) -> str:
        return self.spec.name
