"""Which of the leading configurations is probed again, and what all probes of one say together."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from autotune.search.history import TrialRecord, TrialState
from trials.contract.config import TrainingConfig
from trials.contract.messages import Estimate, ProbeResult
from trials.contract.outcome import VERDICTS, Outcome
from trials.contract.statistics import median_interval

ROUNDS = 3
"""Confirmations of each contender; interleaved, so that a machine that drifts drifts for all of them."""
CONTENDERS = 2
"""Leading configurations that must be confirmed, besides the baseline."""
MOST_CONTENDERS = 5
"""The same, where confirmations fall behind the first probes of those that follow."""
MOST_AT_OTHER_LENGTHS = 2
"""Configurations that are tried at a length that is not the recommended one."""
NEGLIGIBLE = 0.02
"""Share of speed given up for memory to spare, where the probes do not tell two configurations apart."""
MAX_FAILURES = 3
"""Confirmations of one contender that may crash before it stays unconfirmed."""


@dataclass(frozen=True, eq=False)
class Contender:
    """A trial with everything that was ever measured of it."""

    trial: int
    config: TrainingConfig
    results: Mapping[int, ProbeResult] = field(repr=False)
    """Repeat → result; 0 is the trial's own probe, from 1 its confirmations."""
    usable_bytes: int

    @property
    def next_repeat(self) -> int:
        return max(self.results) + 1

    @property
    def has_speed(self) -> bool:
        """Whether its own probe has a figure."""
        return VERDICTS[self.results[0].outcome].has_speed

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether any probe did, so that its peak is larger than any that was seen."""
        return any(result.outcome == Outcome.OUT_OF_MEMORY for result in self.results.values())

    @property
    def holds(self) -> bool:
        """Whether its own probe has a figure, and no probe says that it does not run within what is usable.

        A crash says nothing about that: it may be the machine's.
        """
        verdicts = [VERDICTS[result.outcome] for result in self.results.values()]
        return self.has_speed and not any(
            verdict.completes and (not verdict.has_speed or (result.peak_bytes or 0) > self.usable_bytes)
            for verdict, result in zip(verdicts, self.results.values(), strict=True)
        )

    @property
    def confirmations(self) -> dict[int, float]:
        """Repeat → tokens/s of the confirmations that ran to a figure."""
        return {
            repeat: result.tokens_per_second.median
            for repeat, result in sorted(self.results.items())
            if repeat > 0 and result.tokens_per_second is not None
        }

    @property
    def is_confirmed(self) -> bool:
        return self.holds and len(self.confirmations) >= ROUNDS

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to confirm, or no hope of it."""
        failures = sum(repeat > 0 for repeat in self.results) - len(self.confirmations)
        return len(self.confirmations) >= ROUNDS or failures >= MAX_FAILURES

    @property
    def first(self) -> Estimate:
        """Of its own probe, by which it was selected: the larger of many such figures flatter."""
        estimate = self.results[0].tokens_per_second
        assert estimate is not None, "a contender that holds has a figure"
        return estimate

    @property
    def tokens_per_second(self) -> Estimate:
        """Median and interval over its confirmations; of its own probe's steps until it is confirmed.

        The spread between probes is wider than the one inside a probe, so it is what counts.
        """
        return median_interval(list(self.confirmations.values())) if self.is_confirmed else self.first

    @property
    def peak_bytes(self) -> int:
        return max(r.peak_bytes or 0 for r in self.results.values())


def gather_contenders(
    trials: Iterable[TrialRecord], results: Mapping[int, Mapping[int, ProbeResult]], usable_bytes: int
) -> list[Contender]:
    """Every trial that is complete, with its results by trial and repeat."""
    return [
        Contender(trial.number, trial.config, results[trial.number], usable_bytes)
        for trial in trials
        if trial.state == TrialState.COMPLETE and 0 in results.get(trial.number, {})
    ]


def ranked(contenders: Iterable[Contender]) -> list[Contender]:
    """Those that hold, best first: what is confirmed before what is not, then speed, then memory to spare."""
    return sorted(
        (c for c in contenders if c.holds),
        key=lambda c: (not c.is_confirmed, -c.tokens_per_second.median, c.peak_bytes),
    )


def best_first(contenders: Iterable[Contender]) -> list[Contender]:
    """The same for contenders of one length, where of those that tie with the fastest the leanest leads."""
    found = ranked(contenders)
    if not found:
        return found
    fastest = found[0]
    level = [c for c in found if c.is_confirmed == fastest.is_confirmed and _is_as_fast(fastest, c)]
    leanest = min(level, key=lambda c: c.peak_bytes)
    return [leanest, *(c for c in found if c is not leanest)]


def _is_as_fast(fastest: Contender, other: Contender) -> bool:
    """Whether nobody would mind the difference, and the probes do not tell it either."""
    share = other.tokens_per_second.median / fastest.tokens_per_second.median
    return other is fastest or (share >= 1 - NEGLIGIBLE and is_tie(fastest, other))


def by_length(contenders: Iterable[Contender]) -> dict[int, list[Contender]]:
    """Sequence length → those that hold at it, best first; ascending."""
    lengths: dict[int, list[Contender]] = {}
    for contender in ranked(contenders):
        lengths.setdefault(contender.config.sequence_length, []).append(contender)
    return {length: best_first(lengths[length]) for length in sorted(lengths)}


def headline(contenders: Iterable[Contender], min_speed: float = 0.0) -> list[Contender]:
    """Those that hold at the longest sequence whose best reaches a share of the fastest of all, best first.

    Tokens/s at different lengths are different products; without a share the longest that fits is what is
    recommended.
    """
    lengths = by_length(contenders)
    enough = min_speed * max((best[0].tokens_per_second.median for best in lengths.values()), default=0.0)
    reaching = [best for best in lengths.values() if best[0].tokens_per_second.median >= enough]
    return reaching[-1] if reaching else []


def due_for_confirmation(
    contenders: Sequence[Contender], baseline: Contender | None, min_speed: float = 0.0
) -> list[Contender]:
    """Winner, runner-up and baseline, and whoever was faster at first than any of them turned out to be.

    The leaders are those of the first probes, whatever their confirmations say, so that each round goes
    through the same ones. Who fails makes room for the next one.
    """
    leaders = _by_first_probe(headline(contenders, min_speed))
    due = leaders[:CONTENDERS]
    for follower in leaders[CONTENDERS:MOST_CONTENDERS]:
        best = max((c.tokens_per_second.median for c in due if c.is_confirmed), default=math.inf)
        if all(c.is_done for c in due) and follower.first.median > best:
            due.append(follower)
    if baseline is not None and baseline in leaders and baseline not in due:
        due.append(baseline)
    return due


def due_at_other_lengths(contenders: Sequence[Contender], min_speed: float = 0.0) -> list[Contender]:
    """The fastest of every length but the headline's, and where it fails the one after it."""
    leaders = headline(contenders, min_speed)
    due = []
    for length, found in by_length(contenders).items():
        failed = [
            c for c in contenders if c.config.sequence_length == length and len(c.results) > 1 and not c.holds
        ]
        if found[0] not in leaders and len(failed) < MOST_AT_OTHER_LENGTHS:
            due.append(_by_first_probe(found)[0])
    return due


def _by_first_probe(contenders: Iterable[Contender]) -> list[Contender]:
    return sorted(contenders, key=lambda c: (-c.first.median, c.peak_bytes))


def next_to_confirm(
    contenders: Sequence[Contender], baseline: Contender | None, min_speed: float = 0.0
) -> Contender | None:
    """Who is probed next, or None when all that are due are confirmed.

    What is recommended goes first: a budget that ends early takes the other lengths' rounds.
    """
    for due in (
        due_for_confirmation(contenders, baseline, min_speed),
        due_at_other_lengths(contenders, min_speed),
    ):
        unconfirmed = [c for c in due if not c.is_done]
        if unconfirmed:
            return min(unconfirmed, key=lambda c: len(c.results))
    return None


def speedup(winner: Contender, baseline: Contender) -> Estimate:
    """The winner's tokens/s over the baseline's, round by round; of the first probes where there was none."""
    if winner.trial == baseline.trial:
        return Estimate(median=1.0, low=1.0, high=1.0)
    own, base = winner.confirmations, baseline.confirmations
    ratios = [own[repeat] / base[repeat] for repeat in own if repeat in base]
    if len(ratios) > 1:
        return median_interval(ratios)
    first, other = winner.first, baseline.first
    return Estimate(
        median=first.median / other.median, low=first.low / other.high, high=first.high / other.low
    )


def is_tie(winner: Contender, other: Contender) -> bool:
    """Whether the two are closer than the winner's spread between probes.

    Like is compared with like: confirmations with confirmations, else first probes with first probes.
    """
    if other.results[0].outcome == Outcome.OUTPACED and not other.is_confirmed:
        return False
    if other.is_confirmed:
        return other.tokens_per_second.high >= winner.tokens_per_second.low
    spread = winner.tokens_per_second.low / winner.tokens_per_second.median
    return other.first.high >= winner.first.median * spread
