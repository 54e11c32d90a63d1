"""What the API answers with, where it is not a report's own message."""

from pydantic import BaseModel

from autotune.report.trials import TrialRow
from autotune.storage.records import JobSummary
from trials.contract.config import TrainingConfig


class JobList(BaseModel):
    jobs: list[JobSummary]
    """Latest first."""
    next: str | None
    """`before` of the next page; null on the last."""


class TrialList(BaseModel):
    trials: list[TrialRow]
    next: int | None
    """`after` of the next page; null on the last."""


class Candidate(BaseModel):
    config: TrainingConfig
    tokens_per_second: float
    peak_bytes: int
    """What a device would hold, context included."""


class CandidateList(BaseModel):
    candidates: list[Candidate]
    """Forecasts; of many a part, spread over their speeds."""


class Export(BaseModel):
    format: str
    files: list[str]


class ExportList(BaseModel):
    formats: list[Export]


class Listing(BaseModel):
    """Rows of what is known by name, and of what is found here."""

    model_config = {"extra": "allow"}
