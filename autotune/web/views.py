"""What the API answers with, where it is not a report's own message."""

from pydantic import BaseModel

from autotune.report.forecast_points import ForecastPoint
from autotune.report.trials import TrialRow
from autotune.storage.records import JobSummary


class JobList(BaseModel):
    jobs: list[JobSummary]
    """Latest first."""
    next: str | None
    """`before` of the next page; null on the last."""


class TrialList(BaseModel):
    trials: list[TrialRow]
    next: int | None
    """`after` of the next page; null on the last."""


class CandidateList(BaseModel):
    candidates: list[ForecastPoint]
    """Fastest first; of many a part, spread over their speeds."""


class Export(BaseModel):
    format: str
    files: list[str]


class ExportList(BaseModel):
    formats: list[Export]
