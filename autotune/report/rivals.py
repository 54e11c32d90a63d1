"""Why the obvious alternatives to a recommendation lost."""

from collections.abc import Iterator

from autotune.hardware.sizes import format_bytes
from autotune.report.answer import Recommendation
from autotune.report.explanation import Rival
from autotune.report.recommend import Facts
from autotune.search.confirmation import Contender, headline, is_tie
from trials.contract.config import TrainingConfig
from trials.contract.outcome import Outcome

MOST_SLOWER, MOST_TOO_LARGE = 4, 2


def rivals(facts: Facts, chosen: Recommendation) -> Iterator[Rival]:
    """Of the recommended length: those that came next, and those that were or promised to be faster and do
    not fit.
    """
    (winner,) = (c for c in facts.contenders if c.trial == chosen.trial)
    leaders = headline(facts.contenders, facts.job.spec.min_speed)
    behind = [c for c in leaders if c is not winner]
    for contender in behind[:MOST_SLOWER]:
        yield _rival(winner, contender, _why_behind(winner, contender))
    promised = {c.trial: _promise(facts, winner, c) for c in _too_large(facts, winner)}
    faster = [c for c in _too_large(facts, winner) if promised[c.trial] > 0]
    faster.sort(key=lambda c: -promised[c.trial])
    for contender in faster[:MOST_TOO_LARGE]:
        yield _rival(winner, contender, _why_too_large(contender, promised[contender.trial]))


def differences(old: TrainingConfig, new: TrainingConfig) -> Iterator[str]:
    """Fields in which they differ, as `field: from → to`."""
    for field in TrainingConfig.model_fields:
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            yield f"{field}: {before} → {after}"


def _rival(winner: Contender, contender: Contender, why_not: str) -> Rival:
    return Rival(
        config=contender.config,
        trial=contender.trial,
        changes=tuple(differences(winner.config, contender.config)),
        tokens_per_second=contender.tokens_per_second if contender.has_speed else None,
        peak_bytes=contender.peak_bytes or None,
        why_not=why_not,
    )


def _why_behind(winner: Contender, contender: Contender) -> str:
    if is_tie(winner, contender):
        more = contender.peak_bytes - winner.peak_bytes
        memory = f"{format_bytes(abs(more))} {'more' if more >= 0 else 'less'} memory"
        return f"as fast, as far as the spread between probes can tell, with {memory}"
    if contender.results[0].outcome == Outcome.OUTPACED and not contender.is_confirmed:
        slower = 1 - contender.first.median / winner.first.median
        return f"{slower:.0%} slower when its probe ended early: it could no longer win"
    if contender.is_confirmed:
        slower = 1 - contender.tokens_per_second.median / winner.tokens_per_second.median
        return f"{slower:.0%} slower, confirmed beside it"
    slower = 1 - contender.first.median / winner.first.median
    if slower < 0:
        return "faster in its own probe, but not confirmed: the budget ended"
    return f"{slower:.0%} slower in its own probe"


def _too_large(facts: Facts, winner: Contender) -> list[Contender]:
    """Of the winner's length, what was found not to fit."""
    return [
        c
        for c in facts.contenders
        if c.config.sequence_length == winner.config.sequence_length
        and (c.ran_out_of_memory or (c.has_speed and c.peak_bytes > c.usable_bytes))
    ]


def _promise(facts: Facts, winner: Contender, contender: Contender) -> float:
    """By what share it would be faster: as measured, where it was, else as forecast."""
    if contender.has_speed:
        return contender.first.median / winner.first.median - 1
    own, other = (
        float(facts.premises.forecast_of(c.config).tokens_per_second[0]) for c in (contender, winner)
    )
    return own / other - 1


def _why_too_large(contender: Contender, promise: float) -> str:
    if contender.ran_out_of_memory:
        measured = "it was" if contender.has_speed else "the forecast has it"
        return f"ran out of memory; {measured} {promise:.0%} faster"
    peak, usable = format_bytes(contender.peak_bytes), format_bytes(contender.usable_bytes)
    return f"{promise:.0%} faster, but its peak of {peak} is above the usable {usable}"
