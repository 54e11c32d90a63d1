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
        from forecast_published import attends_by_ring, compare
    finally:
        sys.path.remove(str(BENCHMARKS))
    return [{**compare(row), "ring": attends_by_ring(row)} for row in ROWS]


def test_speed_is_within_a_fifth(compared):
    errors = [row["speed_error"] for row in compared if not row["ring"]]
    assert len(errors) > 10
    assert max(map(abs, errors)) <= 0.20
    assert mean(map(abs, errors)) <= 0.10


def test_a_ring_of_context_parallel_ranks_is_not_faster_than_gathering_keys(compared):
    errors = [row["speed_error"] for row in compared if row["ring"]]
    assert len(errors) > 5
    assert -0.05 <= min(errors) <= max(errors) <= 0.40
    assert mean(errors) <= 0.20


def test_reserved_memory_is_close(compared):
    errors = [row["reserved_error"] for row in compared if row["reserved_error"] is not None]
    assert len(errors) > 10
    assert max(map(abs, errors)) <= 0.12
    assert mean(map(abs, errors)) <= 0.05
