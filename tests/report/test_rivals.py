"""Why others lost, in words, each kind once."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autotune.report.rivals import rivals
from autotune.search.confirmation import Contender
from trials.contract.config import TrainingConfig
from trials.contract.messages import Estimate, ProbeResult
from trials.contract.outcome import Outcome, Phase

USABLE = 1000 << 20


def result(speed: float, peak_mib: int = 500, outcome: Outcome = Outcome.MEASURED) -> ProbeResult:
    has_speed = outcome in (Outcome.MEASURED, Outcome.OUTPACED)
    return ProbeResult(
        probe_id="p",
        outcome=outcome,
        phase=Phase.DONE if has_speed else Phase.MEASURE,
        reason=None if has_speed else f"scripted {outcome}",
        tokens_per_second=Estimate(median=speed, low=speed * 0.99, high=speed * 1.01) if has_speed else None,
        peak_bytes=peak_mib << 20,
    )


def contender(trial: int, *results: ProbeResult) -> Contender:
    return Contender(trial, TrainingConfig(micro_batch_size=trial + 1), dict(enumerate(results)), USABLE)


WINNER = contender(0, result(105), result(100), result(101), result(99))


def words(*others: Contender) -> list[str]:
    """Of each rival; a forecast has twice the tokens/s for a micro-batch that is larger by one."""
    facts: Any = SimpleNamespace(
        contenders=[WINNER, *others], job=SimpleNamespace(spec=SimpleNamespace(min_speed=0.0))
    )
    chosen: Any = SimpleNamespace(trial=0)

    def forecast(config: TrainingConfig) -> Any:
        return SimpleNamespace(tokens_per_second=np.array([2.0**config.micro_batch_size]))

    return [rival.why_not for rival in rivals(facts, chosen, forecast)]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (contender(1, result(90), result(90), result(91), result(89)), "10% slower, confirmed beside it"),
        (contender(1, result(104, 900), *[result(100, 900)] * 3), "as fast, .* with 400 MiB more memory"),
        (
            contender(1, result(98, 400), *[result(97, 400)] * 2, result(99.5, 400)),
            "3.0% slower, which its probes do not tell from the spread, with 100 MiB less memory",
        ),
        (contender(1, result(84)), "20% slower in its own probe"),
        (contender(1, result(101.2)), "as fast|3.6% slower in its own probe"),
        (contender(1, result(150)), "43% faster in its own probe, which confirmations did not bear out"),
        (contender(1, result(63, outcome=Outcome.OUTPACED)), "40% slower when its probe ended early"),
        (
            contender(1, result(126, 1100)),
            "20% faster, but its peak of 1.07 GiB is above the usable 1,000 MiB",
        ),
        (
            contender(1, result(0, outcome=Outcome.OUT_OF_MEMORY)),
            "out of memory; the forecast has it 100% faster",
        ),
        (
            contender(1, result(210), result(0, outcome=Outcome.OUT_OF_MEMORY)),
            "out of memory; it was 100% faster",
        ),
        (contender(1, result(0, outcome=Outcome.TIMED_OUT)), "timed out: scripted timed_out"),
        (contender(1, result(0, outcome=Outcome.NON_FINITE)), "non finite: scripted non_finite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_reason(other: Contender, told: str) -> None:
    (why,) = words(other)
    assert re.search(told, why), why


def test_what_is_slower_and_does_not_fit_is_not_worth_a_word() -> None:
    assert words(contender(1, result(50, 1100))) == []


def test_what_ran_out_of_memory_shows_no_peak() -> None:
    facts: Any = SimpleNamespace(
        contenders=[WINNER, contender(1, result(0, 700, Outcome.OUT_OF_MEMORY))],
        job=SimpleNamespace(spec=SimpleNamespace(min_speed=0.0)),
    )
    chosen: Any = SimpleNamespace(trial=0)
    forecast: Any = lambda config: SimpleNamespace(tokens_per_second=[config.micro_batch_size])  # noqa: E731
    (rival,) = rivals(facts, chosen, forecast)
    assert rival.peak_bytes is None
