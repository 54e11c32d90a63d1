"""Forecasts of what a job may try, for a picture to stand on."""

import numpy as np

from autotune.jobs import JobSpec
from autotune.search.problem import work_out
from trials.contract.config import TrainingConfig
from trials.contract.message import Message


class ForecastPoint(Message):
    config: TrainingConfig
    tokens_per_second: float
    peak_bytes: int
    """What a device would hold, context included."""


def forecast_points(job_id: int, spec: str, limit: int) -> list[ForecastPoint]:
    """Of a job's candidates, fastest first; of many so many, evenly spread over their speeds.

    By the job and its specification as JSON, so that the answer can be kept.
    """
    candidates = work_out(JobSpec.parse(spec)).candidates
    predicted = candidates.forecast
    order = np.argsort(-predicted.tokens_per_second, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(limit, len(order))).astype(np.int64))]
    return [
        ForecastPoint(
            config=candidates.config(int(row)),
            tokens_per_second=float(predicted.tokens_per_second[row]),
            peak_bytes=int(predicted.device_bytes[row]),
        )
        for row in chosen
    ]
