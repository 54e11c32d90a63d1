"""The forecast beside measurements that others published (benchmarks/data/published.json), uncalibrated."""

import json
import sys
from pathlib import Path
from statistics import mean

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS = json.loads((BENCHMARKS / "data" / "published.json").read_text())["rows"]


@pytest.fixture(scope="module")
def compared():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from forecast_published import compare, was_fitted
    finally:
        sys.path.remove(str(BENCHMARKS))
    return [{**compare(row), "fitted": was_fitted(row)} for row in ROWS]


def test_speed_is_within_a_fifth(compared):
    assert max(abs(row["speed_error"]) for row in compared) <= 0.20
    unseen = [row["speed_error"] for row in compared if not row["fitted"]]
    assert len(unseen) > 10
    assert mean(map(abs, unseen)) <= 0.10


def test_reserved_memory_is_close(compared):
    errors = [row["reserved_error"] for row in compared if row["reserved_error"] is not None]
    assert len(errors) > 10
    assert max(map(abs, errors)) <= 0.12
    assert mean(map(abs, errors)) <= 0.05
