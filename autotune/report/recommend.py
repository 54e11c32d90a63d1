"""From trials and measurements to the answer."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.errors import NothingFits, NothingMeasured
from autotune.hardware.sizes import format_bytes
from autotune.jobs import Job
from autotune.report.answer import Answer, Baseline, Evidence, Recommendation, Row, Spent
from autotune.search.confirmation import Contender, headline, is_tie, ranked, speedup
from autotune.search.history import TrialRecord
from autotune.search.problem import Problem
from trials.contract.outcome import VERDICTS, Outcome

MAX_ALTERNATIVES = 5
SAFETY = 1.25
"""What is added to a forecast, which has just been proved too low, where it is all there is to go by."""


@dataclass(frozen=True)
class Facts:
    """What an answer is made from."""

    job: Job
    problem: Problem
    trials: Sequence[TrialRecord]
    contenders: Sequence[Contender]
    probe_seconds: float
    """Of all probes, confirmations included."""


def answer(facts: Facts) -> Answer:
    """The recommendation, what comes next, and what it cost to find out."""
    leaders = headline(facts.contenders)
    winner = leaders[0] if leaders else None
    spec = facts.job.spec
    return Answer(
        job=facts.job.name,
        status=facts.job.status,
        reason=facts.job.reason,
        recommendation=_recommendation(facts, winner, leaders) if winner else None,
        by_length=_by_length(facts),
        alternatives=tuple(_row(facts, c) for c in leaders[1 : 1 + MAX_ALTERNATIVES]),
        front=tuple(_row(facts, c) for c in pareto_front(leaders)),
        counts=dict(Counter(t.outcome for t in facts.trials if t.outcome is not None)),
        spent=Spent(
            trials=sum(t.outcome is not None and t.counts for t in facts.trials),
            seconds=round(facts.job.spent_s, 3),
            gpu_hours=facts.probe_seconds * spec.world_size / 3600,
        ),
    )


def why_nothing(facts: Facts, result: Answer) -> NothingFits | NothingMeasured:
    """Why a search that has ended has no recommendation; with the ceiling that would do, where one would."""
    candidates = facts.problem.candidates
    counts = ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in result.counts.items())
    share = 1 - facts.job.spec.headroom
    ceiling = format_bytes(facts.job.spec.ceiling_bytes)
    if peaks := [trial.peak_bytes for trial in facts.trials if trial.tokens_per_second and trial.peak_bytes]:
        needed = math.ceil(min(peaks) / share)
        return NothingFits(
            f"nothing fits under {ceiling} with {facts.job.spec.headroom:.0%} of headroom: the smallest peak "
            f"that was measured needs a ceiling of {format_bytes(needed)} ({needed} bytes); raise --ceiling"
        )
    if result.counts.get(Outcome.OUT_OF_MEMORY):
        least = int(candidates.forecast.device_bytes.min())
        needed = math.ceil(max(least, facts.job.spec.ceiling_bytes) * SAFETY / share)
        return NothingFits(
            f"nothing that was probed fits under {ceiling} ({counts}); a ceiling of {format_bytes(needed)} "
            f"({needed} bytes) may do, or more GPUs, or a smaller model"
        )
    return NothingMeasured(
        f"nothing could be measured ({counts or 'no probe ran'}): {facts.job.reason}; "
        f"`autotune trials {result.job}` has the reason of each"
    )


def pareto_front(contenders: Sequence[Contender]) -> list[Contender]:
    """Those that none other beats in both tokens/s and memory, leanest first."""
    front: list[Contender] = []
    for contender in sorted(contenders, key=lambda c: (c.peak_bytes, -c.tokens_per_second.median)):
        if not front or contender.tokens_per_second.median > front[-1].tokens_per_second.median:
            front.append(contender)
    return front


def _recommendation(facts: Facts, winner: Contender, leaders: Sequence[Contender]) -> Recommendation:
    spec = facts.job.spec
    baseline = facts.problem.baseline
    own = next((c for c in facts.contenders if c.config == baseline), None)
    reason = _why_no_speedup(facts, own, winner)
    return Recommendation(
        config=winner.config,
        global_batch_size=winner.config.global_batch_size(spec.world_size),
        trial=winner.trial,
        tokens_per_second=winner.tokens_per_second,
        peak_bytes=winner.peak_bytes,
        ceiling_bytes=spec.ceiling_bytes,
        headroom=spec.headroom,
        mfu=_mfu(facts, winner),
        evidence=_evidence(winner),
        baseline=Baseline(
            config=baseline,
            tokens_per_second=own.tokens_per_second if own and own.holds else None,
            reason=reason,
        ),
        speedup=speedup(winner, own) if own and reason is None else None,
        ties=tuple(_row(facts, c) for c in leaders[1:] if is_tie(winner, c)),
    )


def _why_no_speedup(facts: Facts, own: Contender | None, winner: Contender) -> str | None:
    """Why the winner cannot be held against the baseline, or None where it can."""
    if own is None:
        trials = [t for t in facts.trials if t.config == facts.problem.baseline and t.outcome is not None]
        return _in_words(trials[-1].outcome, trials[-1].reason) if trials else "it was not probed"
    for result in own.results.values():
        verdict = VERDICTS[result.outcome]
        if verdict.completes and not verdict.has_speed:
            return _in_words(result.outcome, result.reason)
    if not own.holds:
        usable = format_bytes(own.usable_bytes)
        return f"its peak of {format_bytes(own.peak_bytes)} is above the usable {usable}"
    if own.config.sequence_length != winner.config.sequence_length:
        return f"it trains at another length, sequence_length={own.config.sequence_length}"
    return None


def _in_words(outcome: Outcome | None, reason: str | None) -> str:
    words = str(outcome).replace("_", " ")
    return f"{words}: {reason}" if reason else words


def _by_length(facts: Facts) -> tuple[Row, ...]:
    best: dict[int, Contender] = {}
    for contender in ranked(facts.contenders):
        best.setdefault(contender.config.sequence_length, contender)
    return tuple(_row(facts, best[length]) for length in sorted(best)) if len(best) > 1 else ()


def _row(facts: Facts, contender: Contender) -> Row:
    world_size = facts.job.spec.world_size
    speed = contender.tokens_per_second
    return Row(
        config=contender.config,
        trial=contender.trial,
        world_size=world_size,
        tokens_per_second=speed,
        step_s=contender.config.tokens_per_step(world_size) / speed.median,
        mfu=_mfu(facts, contender),
        peak_bytes=contender.peak_bytes,
        reserved_bytes=_reserved_bytes(contender),
        memory=_memory(facts, contender),
        evidence=_evidence(contender),
    )


def _reserved_bytes(contender: Contender) -> int:
    """What the allocator held on the worst rank; on CPU, where there is no such thing, the peak."""
    reserved = [m.reserved_bytes for r in contender.results.values() for m in r.memory]
    return max((value for value in reserved if value is not None), default=contender.peak_bytes)


def _evidence(contender: Contender) -> Evidence:
    return "confirmed" if contender.is_confirmed else "measured"


def _memory(facts: Facts, contender: Contender) -> dict[str, int]:
    """The forecast's parts in proportion to the measured peak, which they add up to."""
    table, row = facts.problem.forecast_of(contender.config)
    parts = {name: int(values[row]) for name, values in table.parts.items()}
    scale = contender.peak_bytes / sum(parts.values())
    scaled = {name: int(value * scale) for name, value in parts.items()}
    scaled[max(scaled, key=lambda name: scaled[name])] += contender.peak_bytes - sum(scaled.values())
    return scaled


def _mfu(facts: Facts, contender: Contender) -> float | None:
    """The forecast's MFU, in proportion to the measured speed."""
    table, row = facts.problem.forecast_of(contender.config)
    if table.mfu is None:
        return None
    return float(table.mfu[row] * contender.tokens_per_second.median / table.tokens_per_second[row])
