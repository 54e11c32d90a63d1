"""What another job's probe says of one under this ceiling."""

from datetime import UTC, datetime

import pytest

from autotune.search.reuse import holds, known
from autotune.storage.records import Measurement
from trials.contract.config import TrainingConfig
from trials.contract.messages import Estimate, MemoryPeaks, ProbeResult
from trials.contract.outcome import VERDICTS, Outcome, Phase


def measurement(outcome=Outcome.MEASURED, peak=700, ceiling=1000, retries=0, speed=100.0, size=1):
    has_speed = VERDICTS[outcome].has_speed
    result = ProbeResult(
        probe_id="0.0",
        outcome=outcome,
        phase=Phase.DONE,
        peak_bytes=peak,
        tokens_per_second=Estimate(median=speed, low=speed, high=speed) if has_speed else None,
        memory=(MemoryPeaks(device_bytes=peak, allocator_retries=retries),),
    )
    config = TrainingConfig(micro_batch_size=size)
    return Measurement(1, 0, 0, "key", config, result, ceiling, datetime.now(UTC))


@pytest.mark.parametrize(
    ("given", "ceiling", "expected"),
    [
        ({}, 1000, True),
        ({}, 2000, True),
        ({}, 700, True),
        ({}, 699, False),
        ({"retries": 3}, 1000, True),
        ({"retries": 3}, 2000, False),  # with more room it might be faster
        ({"outcome": Outcome.OUT_OF_MEMORY}, 1000, True),
        ({"outcome": Outcome.OUT_OF_MEMORY}, 500, True),
        ({"outcome": Outcome.OUT_OF_MEMORY}, 1001, False),
        ({"outcome": Outcome.OUTPACED}, 1000, True),
        ({"outcome": Outcome.OUTPACED}, 900, False),  # the one it lost against may not fit
        ({"outcome": Outcome.NON_FINITE}, 900, True),
        ({"outcome": Outcome.CRASHED}, 1000, False),
        ({"outcome": Outcome.INVALID}, 1000, False),
    ],
)
def test_what_holds_under_which_ceiling(given, ceiling, expected):
    assert holds(measurement(**given), ceiling) == expected


def test_the_fastest_that_fit_come_first_and_the_latest_of_each_counts():
    found = [
        ("new", measurement(speed=50.0, size=1)),
        ("old", measurement(speed=90.0, size=1)),
        ("old", measurement(speed=80.0, size=2)),
        ("old", measurement(speed=99.0, size=3, peak=990)),  # beyond what is usable
        ("old", measurement(outcome=Outcome.OUT_OF_MEMORY, size=4)),
    ]
    taken = known(found, ceiling_bytes=1000, usable_bytes=950)
    assert [config.micro_batch_size for config in taken] == [2, 1, 3, 4]
    assert taken[TrainingConfig(micro_batch_size=1)].job == "new"
