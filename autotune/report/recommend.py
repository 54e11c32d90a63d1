"""From trials and measurements to the answer."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.jobs import Job
from autotune.report.answer import Answer, Baseline, Evidence, Recommendation, Row, Spent
from autotune.search.candidates import Candidates
from autotune.search.confirmation import Contender, headline, is_tie, ranked, speedup
from autotune.search.history import TrialRecord
from trials.contract.config import TrainingConfig

MAX_ALTERNATIVES = 5


@dataclass(frozen=True)
class Facts:
    """What an answer is made from."""

    job: Job
    candidates: Candidates
    trials: Sequence[TrialRecord]
    contenders: Sequence[Contender]
    baseline: TrainingConfig | None
    no_baseline: str | None
    """Why the job has no baseline, where it has none."""
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
        front=tuple(_row(facts, c) for c in pareto_front(ranked(facts.contenders))),
        counts=dict(Counter(t.outcome for t in facts.trials if t.outcome is not None)),
        spent=Spent(
            trials=sum(t.outcome is not None and t.counts for t in facts.trials),
            seconds=round(facts.job.spent_s, 3),
            gpu_hours=facts.probe_seconds * spec.world_size / 3600,
        ),
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
    own = [c for c in facts.contenders if c.config == facts.baseline and c.holds]
    comparable = own and own[0].config.sequence_length == winner.config.sequence_length
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
            config=facts.baseline,
            tokens_per_second=own[0].tokens_per_second if own else None,
            reason=None if own else _why_no_baseline(facts),
        ),
        speedup=speedup(winner, own[0]) if comparable else None,
        ties=tuple(_row(facts, c) for c in leaders[1:] if is_tie(winner, c)),
    )


def _why_no_baseline(facts: Facts) -> str:
    if facts.baseline is None:
        return facts.no_baseline or "the job has no baseline"
    own = [t for t in facts.trials if t.config == facts.baseline and t.outcome is not None]
    if not own:
        return "it was not probed"
    last = own[-1]
    why = f": {last.reason}" if last.reason else ""
    if last.tokens_per_second > 0:
        return "it ran, but its peak is above the usable memory"
    return f"{(last.outcome or '').replace('_', ' ')}{why}"


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
        memory=_memory(facts.candidates, contender.config),
        evidence=_evidence(contender),
    )


def _reserved_bytes(contender: Contender) -> int:
    """What the allocator held on the worst rank; on CPU, where there is no such thing, the peak."""
    reserved = [m.reserved_bytes for r in contender.results.values() for m in r.memory]
    return max((value for value in reserved if value is not None), default=contender.peak_bytes)


def _evidence(contender: Contender) -> Evidence:
    return "confirmed" if contender.is_confirmed else "measured"


def _memory(candidates: Candidates, config: TrainingConfig) -> dict[str, int]:
    index = candidates.index(config)
    if index is None:
        return {}
    return {part: int(values[index]) for part, values in candidates.forecast.parts.items()}


def _mfu(facts: Facts, contender: Contender) -> float | None:
    """The forecast's MFU, in proportion to the measured speed."""
    forecast = facts.candidates.forecast
    index = facts.candidates.index(contender.config)
    if index is None or forecast.mfu is None:
        return None
    return float(forecast.mfu[index] * contender.tokens_per_second.median / forecast.tokens_per_second[index])
