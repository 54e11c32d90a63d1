"""A job as the API shows it."""

from datetime import datetime
from typing import Any

from autotune.jobs import Job, JobStatus
from trials.contract.message import Message


class JobView(Message):
    name: str
    status: JobStatus
    reason: str | None
    """Why the status is what it is, where that needs saying."""
    model: str
    parameters: int
    gpus: str
    """In the words it was asked for."""
    world_size: int
    ceiling_bytes: int
    usable_bytes: int
    """Ceiling less headroom."""
    headroom: float
    space: str
    sampler: str
    trials: int
    """Most trials that may count."""
    minutes: float | None
    gpu_hours: float | None
    global_batch_size: int | None
    notes: tuple[str, ...]
    created_at: datetime
    updated_at: datetime
    spent_s: float
    """Wall time of all its drivers."""
    driver: str | None
    """Who drives it; null where no living driver is known."""
    study: str | None
    """Path of its study in the Optuna dashboard; null before there is one."""

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def job_view(job: Job, study: str | None) -> JobView:
    spec = job.spec
    return JobView(
        name=job.name,
        status=job.status,
        reason=job.reason,
        model=spec.model.name,
        parameters=int(spec.shape["num_parameters"]),
        gpus=spec.gpus,
        world_size=spec.world_size,
        ceiling_bytes=spec.ceiling_bytes,
        usable_bytes=spec.usable_bytes,
        headroom=spec.headroom,
        space=str(spec.space.get("name", "")),
        sampler=spec.sampler,
        trials=spec.trials,
        minutes=spec.minutes,
        gpu_hours=spec.gpu_hours,
        global_batch_size=spec.global_batch_size,
        notes=spec.notes,
        created_at=job.created_at,
        updated_at=job.updated_at,
        spent_s=job.spent_s,
        driver=job.driver,
        study=study,
    )
