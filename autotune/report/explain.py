"""From a job's record to the explanation of its recommendation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autotune.forecast.calibration import Calibration, Observation
from autotune.forecast.forecast import Forecast, break_down
from autotune.hardware.sizes import format_bytes
from autotune.report.answer import Answer, Recommendation
from autotune.report.explanation import Bounds, Cost, JobExplanation, Knob, Source, Step
from autotune.report.recommend import Facts
from autotune.report.rivals import differences, rivals
from autotune.search.confirmation import Contender
from autotune.search.facts import facts_of
from search_spaces.columns import Columns, Value
from search_spaces.constraints import accumulation_steps, why_illegal
from search_spaces.dimensions import DERIVED
from search_spaces.rules import Facts as LegalFacts
from search_spaces.space import SearchSpace
from trials.contract.config import TrainingConfig

SIZE = "micro_batch_size"
COMMUNICATING = 0.2
"""Share of a step spent on communication from which on that is what bounds it."""
NOTICEABLE = 0.005
"""Share of speed below which a gain rounds to none."""
FEW_PROBES = 3
ROUGH = f"forecasts are rough: fewer than {FEW_PROBES} probes have corrected them so far"
FIXED_LENGTH = (
    "probes train on sequences of one length, without padding: where your batches are padded, tokens/s of "
    "real tokens fall with the share of padding, while peaks stay; packed sequences come close to the probes"
)
RANDOM_WEIGHTS = (
    "weights are random and tokens made up: speed and memory do not depend on them, the loss does"
)


@dataclass(frozen=True)
class _Case:
    """What the parts of an explanation are made from."""

    facts: Facts
    earlier: Calibration
    """What other jobs measured on the same hardware."""
    chosen: Recommendation

    @property
    def world_size(self) -> int:
        return self.facts.job.spec.world_size

    @property
    def usable_bytes(self) -> int:
        return self.facts.job.spec.usable_bytes

    @cached_property
    def contenders(self) -> Mapping[TrainingConfig, Contender]:
        return {contender.config: contender for contender in self.facts.contenders}

    @cached_property
    def plain(self) -> Mapping[TrainingConfig, Forecast]:
        """One row of each probed configuration, without what any of them taught."""
        premises, configs = self.facts.premises, list(self.contenders)
        found = premises.forecast_of(*configs)
        rows = np.eye(len(configs), dtype=np.bool_)
        return {config: found.select(row) for config, row in zip(configs, rows, strict=True)}

    @cached_property
    def calibration(self) -> Calibration:
        """With what the job's own probes taught."""
        digest = self.facts.premises.spec.model.digest
        own = [
            Observation.of(digest, self.world_size, contender.config, result, self.plain[contender.config])
            for contender in self.facts.contenders
            for result in contender.results.values()
        ]
        return Calibration([*self.earlier.observations, *(seen for seen in own if seen is not None)])

    def forecast(self, config: TrainingConfig) -> Forecast:
        """One row, corrected by all that was measured."""
        premises, columns = self.facts.premises, Columns.of([config])
        plain = self.plain[config] if config in self.plain else premises.forecast_of(config)
        return self.calibration.apply(premises.spec.model.digest, self.world_size, columns, plain).forecast

    @cached_property
    def legal(self) -> LegalFacts:
        spec, premises = self.facts.job.spec, self.facts.premises
        return facts_of(
            premises.shape,
            premises.group,
            spec.world_size,
            global_batch_size=spec.global_batch_size,
            global_batch_tolerance=spec.global_batch_tolerance,
        )


def explain(facts: Facts, answer: Answer, earlier: Calibration) -> JobExplanation | None:
    """Why the recommendation of `answer` is what it is; None where there is none."""
    chosen = answer.recommendation
    if chosen is None:
        return None
    case = _Case(facts, earlier, chosen)
    knobs = tuple(_knobs(case))
    baseline = chosen.baseline
    return JobExplanation(
        job=answer.job,
        config=chosen.config,
        trial=chosen.trial,
        tokens_per_second=chosen.tokens_per_second,
        peak_bytes=chosen.peak_bytes,
        usable_bytes=case.usable_bytes,
        knobs=knobs,
        rivals=tuple(rivals(facts, chosen, case.forecast)),
        bounds=_bounds(case, knobs),
        speedup=chosen.speedup,
        no_speedup=baseline.reason,
        baseline_steps=tuple(differences(baseline.config, chosen.config)),
        cost=_cost(answer, chosen),
        notes=(*_about_forecasts(facts), FIXED_LENGTH, RANDOM_WEIGHTS),
    )


def _about_forecasts(facts: Facts) -> Iterator[str]:
    if sum(contender.has_speed for contender in facts.contenders) < FEW_PROBES:
        yield ROUGH


def _knobs(case: _Case) -> Iterator[Knob]:
    """Each searched field: of sizes the next smaller and larger values, of choices all others."""
    space = SearchSpace.parse(case.facts.job.spec.space)
    for field, values in space.dimensions.items():
        if field == DERIVED or len(values) < 2:
            continue
        own = getattr(case.chosen.config, field)
        steps = [_step(case, field, value) for value in _others(case, field, values, own)]
        if steps:
            yield Knob(field=field, value=own, steps=tuple(steps))


def _others(case: _Case, field: str, values: Sequence[Value], own: Value) -> list[Value]:
    if not isinstance(own, int) or isinstance(own, bool):
        return [value for value in values if value != own]
    smaller = sorted((value for value in values if int(value) < own), reverse=True)
    larger = sorted(value for value in values if int(value) > own)
    return [_nearest_legal(case, field, side) for side in (smaller, larger) if side]


def _nearest_legal(case: _Case, field: str, values: Sequence[Value]) -> Value:
    """The first that is legal; where none is, the first."""
    legal = (value for value in values if not why_illegal(_with(case, field, value), case.legal))
    return next(legal, values[0])


def _with(case: _Case, field: str, value: Value) -> TrainingConfig:
    """The recommended configuration with another value, and the accumulation that follows from it."""
    config = case.chosen.config.model_copy(update={field: value})
    (steps,) = accumulation_steps(Columns.of([config]), case.legal)
    return config.model_copy(update={DERIVED: int(steps)})


def _step(case: _Case, field: str, value: Value) -> Step:
    config = _with(case, field, value)
    if reason := why_illegal(config, case.legal):
        return _compared(case, value, "forecast", None, None, reason)
    if (known := case.contenders.get(config)) is not None:
        return _measured(case, value, known)
    found = case.forecast(config)
    speed, peak = float(found.tokens_per_second[0]), int(found.device_bytes[0])
    over = peak - case.usable_bytes
    why = f"it would hold {format_bytes(over)} more than is usable" if over > 0 else None
    return _compared(case, value, "forecast", speed, peak, why, is_too_large=over > 0)


def _measured(case: _Case, value: Value, known: Contender) -> Step:
    speed = known.tokens_per_second.median if known.has_speed else None
    peak = None if known.ran_out_of_memory else known.peak_bytes or None
    why = None
    if known.ran_out_of_memory:
        why = "it ran out of memory"
    elif not known.has_speed:
        why = f"{known.results[0].outcome.replace('_', ' ')}: {known.results[0].reason}"
    elif not known.holds:
        why = f"its peak is above the usable {format_bytes(known.usable_bytes)}"
    too_large = known.ran_out_of_memory or (known.has_speed and not known.holds)
    return _compared(case, value, "measured", speed, peak, why, is_too_large=too_large)


def _compared(
    case: _Case,
    value: Value,
    source: Source,
    speed: float | None,
    peak: int | None,
    why_not: str | None,
    *,
    is_too_large: bool = False,
) -> Step:
    """With what differs from the recommended configuration; it fits unless there is a reason why not."""
    return Step(
        value=value,
        source=source,
        tokens_per_second=speed,
        speed_change=None if speed is None else speed / case.chosen.tokens_per_second.median - 1,
        peak_bytes=peak,
        bytes_change=None if peak is None else peak - case.chosen.peak_bytes,
        fits=why_not is None,
        why_not=why_not,
        is_too_large=is_too_large,
    )


def _bounds(case: _Case, knobs: Sequence[Knob]) -> Bounds:
    """Memory where a larger micro-batch would be faster and does not fit, else what takes the step's time."""
    chosen, premises = case.chosen, case.facts.premises
    parts = break_down(premises.shape, premises.group, case.world_size, chosen.config).seconds
    step_s = chosen.config.tokens_per_step(case.world_size) / chosen.tokens_per_second.median
    scale = step_s / sum(parts.values())
    seconds = {name: part * scale for name, part in parts.items()}
    waiting = (seconds["communication"] + seconds["bubble"]) / step_s
    larger = _larger_size(knobs)
    promises = larger is not None and (larger.speed_change is None or larger.speed_change > 0)
    if larger is not None and larger.is_too_large and promises:
        gain = "" if larger.speed_change is None else f", which would be {larger.speed_change:.0%} faster"
        words = f"{SIZE}={larger.value}{gain}, does not fit: {larger.why_not}"
        return Bounds(bound="memory", reason=words, seconds=seconds)
    if waiting >= COMMUNICATING:
        words = f"about {waiting:.0%} of a step is communication that compute does not hide"
        return Bounds(bound="communication", reason=words, seconds=seconds)
    words = f"about {1 - waiting:.0%} of a step is compute, and {_about_size(larger)}"
    return Bounds(bound="compute", reason=words, seconds=seconds)


def _about_size(larger: Step | None) -> str:
    """Whether a larger micro-batch, of which memory is not in the way, would be faster."""
    if larger is None or (not larger.fits and not larger.is_too_large):
        return "the space has no larger micro-batch that is legal"
    gain = larger.speed_change or 0.0
    if not larger.fits or gain < NOTICEABLE:
        return "a larger micro-batch would not make it faster"
    if larger.source == "forecast":
        return f"a larger micro-batch promises {gain:.0%} and has not been tried"
    return f"a larger micro-batch was {gain:.0%} faster in its own probe, which may be chance"


def _larger_size(knobs: Sequence[Knob]) -> Step | None:
    for knob in knobs:
        if knob.field == SIZE:
            return next((step for step in knob.steps if int(step.value) > int(knob.value)), None)
    return None


def _cost(answer: Answer, chosen: Recommendation) -> Cost:
    spent, gain = answer.spent, chosen.speedup
    saved = 1 - 1 / gain.median if gain is not None and gain.low > 1 else 0.0
    # In an hour at the new speed, 1 / (1 − saved) hours of the old are done: the difference is what is won.
    pays_after = spent.seconds / 3600 * (1 - saved) / saved if saved else None
    return Cost(seconds=spent.seconds, gpu_hours=spent.gpu_hours, pays_after_hours=pays_after)
