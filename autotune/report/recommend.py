"""From trials and measurements to the answer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotune.errors import NothingFits, NothingMeasured
from autotune.hardware.sizes import format_bytes
from autotune.jobs import Job
from autotune.report.answer import Answer, Baseline, Evidence, Recommendation, Row, Spent
from autotune.report.trials import by_trial
from autotune.search.candidates import Candidates
from autotune.search.ceilings import FORECAST_MARGIN, PEAK_MARGIN, enough_for, in_words, ways_out
from autotune.search.confirmation import Contender, by_length, gather_contenders, headline, is_tie, speedup
from autotune.search.history import TrialRecord
from autotune.search.problem import Premises
from autotune.storage.records import Measurement
from trials.contract.outcome import VERDICTS, Outcome

MAX_ALTERNATIVES = 5
STATES = frozenset({"weights", "gradients", "master", "optimizer"})
"""Parts of memory whose size follows from the number of parameters."""


@dataclass(frozen=True)
class Facts:
    """What an answer is made from."""

    job: Job
    premises: Premises
    trials: Sequence[TrialRecord]
    contenders: Sequence[Contender]
    probe_seconds: float
    """Of all probes, confirmations included."""


def gather_facts(
    job: Job, premises: Premises, trials: Sequence[TrialRecord], measurements: Sequence[Measurement]
) -> Facts:
    """What the record of a job comes to."""
    return Facts(
        job=job,
        premises=premises,
        trials=trials,
        contenders=gather_contenders(trials, by_trial(measurements), job.spec.usable_bytes),
        probe_seconds=sum(m.result.seconds for m in measurements if m.reused_from is None),
    )


def answer(facts: Facts) -> Answer:
    """The recommendation, what comes next, and what it cost to find out."""
    leaders = headline(facts.contenders, facts.job.spec.min_speed)
    winner = leaders[0] if leaders else None
    spec = facts.job.spec
    ended = Counter(trial.outcome for trial in facts.trials)
    on_gpus = facts.premises.group.gpu.kind == "cuda"
    return Answer(
        job=facts.job.name,
        status=facts.job.status,
        reason=facts.job.reason,
        recommendation=_recommendation(facts, winner, leaders) if winner else None,
        by_length=_by_length(facts),
        alternatives=tuple(_row(facts, c) for c in leaders[1 : 1 + MAX_ALTERNATIVES]),
        front=tuple(_row(facts, c) for c in pareto_front(leaders)),
        counts={outcome: ended[outcome] for outcome in Outcome},
        spent=Spent(
            trials=sum(t.outcome is not None and t.counts for t in facts.trials),
            seconds=round(facts.job.spent_s, 3),
            gpu_hours=facts.probe_seconds * spec.world_size / 3600 if on_gpus else 0.0,
        ),
    )


def why_nothing(facts: Facts, candidates: Candidates) -> NothingFits | NothingMeasured:
    """Why a search that has ended has no recommendation; with a ceiling that would do, where one would."""
    spec, device_bytes = facts.job.spec, facts.premises.group.gpu.memory_bytes
    ended = Counter(trial.outcome for trial in facts.trials if trial.outcome is not None)
    counts = ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in ended.items())
    ceiling = format_bytes(spec.ceiling_bytes)
    out_of_memory = [c for c in facts.contenders if c.ran_out_of_memory]
    ran = [c for c in facts.contenders if c.has_speed and not c.ran_out_of_memory]
    if peaks := [c.peak_bytes for c in ran if c.peak_bytes > c.usable_bytes]:
        needed_bytes = enough_for(min(peaks), spec.headroom, PEAK_MARGIN)
        return NothingFits(
            f"nothing fits under {ceiling} with {spec.headroom:.0%} of headroom: the smallest peak that was "
            f"measured needs a ceiling of {in_words(needed_bytes)}; {ways_out(needed_bytes, device_bytes)}"
        )
    if out_of_memory:
        _, leanest_bytes = candidates.leanest or (None, 0)
        # Where a forecast says that it would fit, it has just been proved wrong.
        least_bytes = max(leanest_bytes, spec.ceiling_bytes)
        needed_bytes = enough_for(least_bytes, spec.headroom, FORECAST_MARGIN)
        return NothingFits(
            f"nothing that was probed fits under {ceiling} ({counts}): a ceiling of {in_words(needed_bytes)} "
            f"may do; {ways_out(needed_bytes, device_bytes)}"
        )
    causes = [facts.job.reason]
    causes += [trial.reason for trial in facts.trials]
    causes += [r.reason for c in facts.contenders for repeat, r in c.results.items() if repeat > 0]
    return NothingMeasured(
        f"nothing could be measured ({counts or 'no probe ran'}): {[*filter(None, causes)][-1]}; "
        f"`autotune trials {facts.job.name}` has the reason of each"
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
    baseline = facts.premises.baseline
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
        trials = [t for t in facts.trials if t.config == facts.premises.baseline and t.outcome is not None]
        return _in_words(trials[-1].outcome, trials[-1].reason) if trials else "it was not probed"
    for repeat, result in own.results.items():
        verdict = VERDICTS[result.outcome]
        if not verdict.has_speed and (verdict.completes or repeat == 0):
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
    lengths = by_length(facts.contenders)
    return tuple(_row(facts, best[0]) for best in lengths.values()) if len(lengths) > 1 else ()


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
    """The forecast's parts."""
    forecast = facts.premises.forecast_of(contender.config)
    parts = {name: int(values[0]) for name, values in forecast.parts.items()}
    return split_peak(contender.peak_bytes, parts)


def split_peak(peak_bytes: int, parts: Mapping[str, int]) -> dict[str, int]:
    """A measured peak by the forecast's parts, which add up to it.

    States have the size that their number formats give them, and only the others are in proportion to what
    remains of the peak; all are where not even the states come to it.
    """
    known = {name: size for name, size in parts.items() if name in STATES}
    rest_bytes = peak_bytes - sum(known.values())
    loose = {name: size for name, size in parts.items() if name not in known}
    if rest_bytes < 0 or not any(loose.values()):
        known, rest_bytes, loose = {}, peak_bytes, dict(parts)
    scale = rest_bytes / sum(loose.values())
    split = {name: known.get(name, int(size * scale)) for name, size in parts.items()}
    split[max(loose, key=lambda name: loose[name])] += peak_bytes - sum(split.values())
    return split


def _mfu(facts: Facts, contender: Contender) -> float | None:
    """The forecast's MFU, in proportion to the measured speed."""
    forecast = facts.premises.forecast_of(contender.config)
    if forecast.mfu is None:
        return None
    return float(forecast.mfu[0] * contender.tokens_per_second.median / forecast.tokens_per_second[0])
