"""Which of the leading configurations is probed again, and what all probes of one say together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from trials.contract.config import TrainingConfig
from trials.contract.messages import Estimate, ProbeResult
from trials.contract.outcome import VERDICTS
from trials.contract.statistics import median_interval

ROUNDS = 3
"""Confirmations of each contender; interleaved, so that a machine that drifts drifts for all of them."""
CONTENDERS = 2
"""Leading configurations that must be confirmed, besides the baseline."""


@dataclass(frozen=True, eq=False)
class Contender:
    """A trial with everything that was ever measured of it."""

    trial: int
    config: TrainingConfig
    results: Mapping[int, ProbeResult] = field(repr=False)
    """Repeat → result; 0 is the trial's own probe, from 1 its confirmations."""
    usable_bytes: int

    @property
    def confirmations(self) -> list[ProbeResult]:
        return [result for repeat, result in sorted(self.results.items()) if repeat > 0]

    @property
    def next_repeat(self) -> int:
        return max(self.results) + 1

    @property
    def holds(self) -> bool:
        """Whether every probe of it ran to a figure and stayed within what is usable."""
        return all(
            VERDICTS[r.outcome].has_speed and r.tokens_per_second and (r.peak_bytes or 0) <= self.usable_bytes
            for r in self.results.values()
        )

    @property
    def is_confirmed(self) -> bool:
        return len(self.confirmations) >= ROUNDS and self.holds

    @property
    def tokens_per_second(self) -> Estimate:
        """Median and interval of its probes' medians; of the one probe's steps where there is only one.

        The spread between probes is wider than the one inside a probe, so it is what counts.
        """
        speeds = [r.tokens_per_second for r in self.results.values() if r.tokens_per_second]
        return speeds[0] if len(speeds) == 1 else median_interval([speed.median for speed in speeds])

    @property
    def peak_bytes(self) -> int:
        return max(r.peak_bytes or 0 for r in self.results.values())


def ranked(contenders: Iterable[Contender]) -> list[Contender]:
    """Those that hold, fastest first; on equal speed, the one with more memory to spare."""
    return sorted(
        (c for c in contenders if c.holds), key=lambda c: (-c.tokens_per_second.median, c.peak_bytes)
    )


def headline(contenders: Iterable[Contender]) -> list[Contender]:
    """Those that hold at the longest sequence any of them holds at, fastest first.

    Tokens/s at different lengths are different products; the longest that fits is what is recommended.
    """
    holding = ranked(contenders)
    longest = max((c.config.sequence_length for c in holding), default=0)
    return [c for c in holding if c.config.sequence_length == longest]


def next_to_confirm(contenders: Sequence[Contender], baseline: Contender | None) -> Contender | None:
    """Who is probed next, or None when the leaders are confirmed.

    Each round goes through winner, runner-up and baseline. A contender that fails, or falls behind,
    makes room for the next one, which is then confirmed in turn.
    """
    leaders = headline(contenders)
    due = leaders[:CONTENDERS]
    if baseline is not None and baseline in leaders and baseline not in due:
        due.append(baseline)
    unconfirmed = [c for c in due if len(c.confirmations) < ROUNDS]
    return min(unconfirmed, key=lambda c: len(c.confirmations), default=None)


def speedup(winner: Contender, baseline: Contender) -> Estimate:
    """The winner's tokens/s over the baseline's, round by round; of the first probes where there was none."""
    if winner.trial == baseline.trial:
        return Estimate(median=1.0, low=1.0, high=1.0)
    both = winner.results.keys() & baseline.results.keys()
    rounds = [repeat for repeat in both if repeat > 0] or [0]
    ratios = [_speed(winner.results[r]) / _speed(baseline.results[r]) for r in rounds]
    if len(ratios) > 1:
        return median_interval(ratios)
    own, base = winner.tokens_per_second, baseline.tokens_per_second
    return Estimate(median=ratios[0], low=own.low / base.high, high=own.high / base.low)


def is_tie(winner: Contender, other: Contender) -> bool:
    """Whether the two are closer than the spread of their probes."""
    return other.tokens_per_second.high >= winner.tokens_per_second.low


def _speed(result: ProbeResult) -> float:
    assert result.tokens_per_second is not None, "a contender that holds has a speed in every result"
    return result.tokens_per_second.median
