"""Why the obvious alternatives to a recommendation lost."""

from collections.abc import Callable, Iterator

from autotune.forecast.forecast import Forecast
from autotune.hardware.sizes import format_bytes
from autotune.report.answer import Recommendation
from autotune.report.explanation import Rival
from autotune.report.recommend import Facts
from autotune.search.confirmation import NEGLIGIBLE, Contender, headline, is_tie
from trials.contract.config import TrainingConfig
from trials.contract.outcome import VERDICTS, Outcome

MOST_BEHIND, MOST_OUT = 4, 3
NEARLY = 0.095
"""Shares below this are told with a digit more."""


def rivals(
    facts: Facts, chosen: Recommendation, forecast: Callable[[TrainingConfig], Forecast]
) -> Iterator[Rival]:
    """Of the recommended length: those that came next, and those that were or promised to be faster and do
    not fit or not run. `forecast`: of one configuration, corrected by all that was measured.
    """
    (winner,) = (c for c in facts.contenders if c.trial == chosen.trial)
    leaders = headline(facts.contenders, facts.job.spec.min_speed)
    for contender in [c for c in leaders if c is not winner][:MOST_BEHIND]:
        yield _rival(winner, contender, _why_behind(winner, contender))
    own = float(forecast(winner.config).tokens_per_second[0])
    promises = {
        c.trial: c.first.median / winner.first.median - 1
        if c.has_speed
        else float(forecast(c.config).tokens_per_second[0]) / own - 1
        for c in facts.contenders
        if c.config.sequence_length == winner.config.sequence_length and not c.holds
    }
    out = [c for c in facts.contenders if promises.get(c.trial, 0.0) > 0]
    for contender in sorted(out, key=lambda c: -promises[c.trial])[:MOST_OUT]:
        yield _rival(winner, contender, _why_out(contender, promises[contender.trial]))


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
        peak_bytes=None if contender.ran_out_of_memory else contender.peak_bytes or None,
        why_not=why_not,
    )


def _why_behind(winner: Contender, contender: Contender) -> str:
    if contender.is_confirmed:
        slower = 1 - contender.tokens_per_second.median / winner.tokens_per_second.median
    else:
        slower = 1 - contender.first.median / winner.first.median
    if slower < 0 and not contender.is_confirmed and winner.is_confirmed:
        return f"{_percent(-slower)} faster in its own probe, which confirmations did not bear out"
    if is_tie(winner, contender):
        more = contender.peak_bytes - winner.peak_bytes
        memory = f"{format_bytes(abs(more))} {'more' if more >= 0 else 'less'} memory"
        if slower > NEGLIGIBLE:
            return f"{_percent(slower)} slower, which its probes do not tell from the spread, with {memory}"
        return f"as fast, as far as the spread between probes can tell, with {memory}"
    if contender.is_confirmed:
        return f"{_percent(slower)} slower, confirmed beside it"
    if contender.results[0].outcome == Outcome.OUTPACED:
        return f"{_percent(slower)} slower when its probe ended early: it could no longer win"
    return f"{_percent(slower)} slower in its own probe"


def _why_out(contender: Contender, promise: float) -> str:
    """Of one that was, or promised to be, faster by the share `promise`."""
    faster = f"{_percent(promise)} faster"
    if contender.ran_out_of_memory:
        return f"ran out of memory; {'it was' if contender.has_speed else 'the forecast has it'} {faster}"
    verdicts = {repeat: VERDICTS[result.outcome] for repeat, result in contender.results.items()}
    for repeat, verdict in verdicts.items():
        if verdict.completes and not verdict.has_speed:
            result = contender.results[repeat]
            return f"{result.outcome.replace('_', ' ')}: {result.reason}"
    peak, usable = format_bytes(contender.peak_bytes), format_bytes(contender.usable_bytes)
    return f"{faster}, but its peak of {peak} is above the usable {usable}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share < NEARLY else f"{share:.0%}"
