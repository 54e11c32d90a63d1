"""`autotune plan`: every legal configuration forecast and ranked, without a GPU and without a database."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BadInput, NothingFits
from autotune.forecast.forecast import Forecast, break_down, forecast
from autotune.hardware.inventory import NodeGroup
from autotune.hardware.parse import parse_inventory
from autotune.hardware.sizes import format_bytes
from autotune.models.resolve import ResolvedModel, resolve
from autotune.models.traced import trace
from autotune.report.plan import Explanation, Plan, PlanRow, Rejected
from autotune.request import ceiling_bytes, default_spaces, space_for
from autotune.search.facts import facts_of
from search_spaces.columns import Columns, Value
from search_spaces.constraints import Facts, Rejection, accumulation_steps, why_illegal
from search_spaces.dimensions import DERIVED
from trials.contract.capabilities import why_unprobed
from trials.contract.config import TrainingConfig
from trials.contract.message import ContractError

RELAXATIONS: tuple[Mapping[str, Value], ...] = (
    {"micro_batch_size": 1},
    {"activation_checkpointing": "full"},
    {"loss": "chunked"},
    {"sharding": "fsdp"},
    {"sharding": "zero3"},
    {"precision": "bf16_pure"},
    {"optimizer": "adamw_8bit"},
    {"sharding": "zero2", "offload": "optimizer"},
    {"sharding": "fsdp", "offload": "optimizer_and_parameters"},
    {"adaptation": "lora", "precision": "bf16_pure", "sharding": "ddp"},
    {"adaptation": "lora", "precision": "bf16_pure", "sharding": "ddp", "base_weights": "int4"},
)
"""What is tried, in this order and each added to those before it that do not clash, where nothing fits: from
what costs only speed to what changes the training."""
MAX_TIMES_MORE = 1024
"""How many times the GPUs are looked at, at most, to say how many would do."""


@dataclass(frozen=True)
class PlanRequest:
    """A question in the user's own words; what is None is for autotune to decide."""

    model: str
    gpus: str = "auto"
    ceiling: str | None = None
    headroom: float = 0.05
    space: str | None = None
    settings: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    global_batch_size: int | None = None
    global_batch_tolerance: float = 0.10
    top: int = 10
    trace: int = 0
    """How many of the best are traced on the real model."""
    ray_address: str | None = None


@dataclass(frozen=True, eq=False)
class _Planned:
    """One space on one group of nodes."""

    model: ResolvedModel
    group: NodeGroup
    facts: Facts
    ceiling_bytes: int
    headroom: float
    columns: Columns
    forecast: Forecast
    rejected: tuple[Rejection, ...]
    notes: tuple[str, ...]

    @property
    def usable_bytes(self) -> int:
        return int(self.ceiling_bytes * (1 - self.headroom))

    @property
    def fits(self) -> NDArray[np.bool_]:
        return self.forecast.device_bytes <= self.usable_bytes

    def best(self, top: int) -> list[PlanRow]:
        """The fastest that fit; of equally fast ones the leanest first."""
        rows = np.flatnonzero(self.fits)
        if len(rows) > top:  # sort only what can be among them
            speed = self.forecast.tokens_per_second[rows]
            rows = rows[speed >= np.partition(speed, -top)[-top]]
        order = np.lexsort((self.forecast.device_bytes[rows], -self.forecast.tokens_per_second[rows]))
        return [self.row(int(index)) for index in rows[order[:top]]]

    def leanest(self) -> PlanRow:
        return self.row(int(np.argmin(self.forecast.device_bytes)))

    def row(self, index: int) -> PlanRow:
        found, config = self.forecast, self.columns.config(index)
        return PlanRow(
            config=config,
            gpus=_gpus(self.group, self.facts.world_size),
            world_size=self.facts.world_size,
            tokens_per_second=float(found.tokens_per_second[index]),
            step_s=float(found.step_s[index]),
            mfu=None if found.mfu is None else float(found.mfu[index]),
            peak_bytes=int(found.peak_bytes[index]),
            reserved_bytes=int(found.reserved_bytes[index]),
            memory={name: int(part[index]) for name, part in found.parts.items()},
            fits=bool(found.device_bytes[index] <= self.usable_bytes),
            unprobed=why_unprobed(config, self.group.gpu.features),
        )


def plan(request: PlanRequest) -> Plan:
    """Forecast every legal configuration and rank what fits.

    Without a named space those that suit the inventory are tried in turn, from full training to LoRA, until
    something fits. Raises BadInput where no configuration is legal.
    """
    model, groups = resolve(request.model), parse_inventory(request.gpus, request.ray_address).groups
    names = [request.space] if request.space else default_spaces(groups[0])
    tried: list[str] = []
    for name in names:
        planned = [_plan_group(request, model, group, name) for group in groups]
        tried.append(name)
        if any(one.fits.any() for one in planned):
            break
    return _traced(_answer(request, model, planned, tried), model, request.trace)


def save_plot(found: Plan, path: Path) -> None:
    """Write the plan's plots as one HTML file; raises BadInput where it cannot be written."""
    from autotune.report.plots import save_plan  # plotly takes longer to import than a plan to make

    save_plan(found, path)


def require_something(found: Plan) -> None:
    """Raise NothingFits, with what comes nearest and what would help, where a plan has nothing to offer."""
    if found.nearest is None:
        return
    needed = _device_bytes(found.nearest)
    raise NothingFits(
        f"nothing fits on {found.gpus} under {format_bytes(found.ceiling_bytes)}: the smallest configuration "
        f"of the space {found.space!r} would hold {format_bytes(needed)}; {'; '.join(found.advice)}"
    )


def _traced(found: Plan, model: ResolvedModel, count: int) -> Plan:
    """The plan with the peak of the first `count` rows found on the real model."""
    rows, notes = list(found.ranked), list(found.notes)
    for index, row in enumerate(rows[:count]):
        result = trace(model.spec, row.config, row.world_size)
        if isinstance(result, str):
            notes.append(f"row {index + 1} was not traced: {result}")
        else:
            rows[index] = row.model_copy(update={"traced_bytes": result.peak_bytes})
    return found.model_copy(update={"ranked": tuple(rows), "notes": tuple(notes)})


def explain(request: PlanRequest, given: Mapping[str, Value]) -> Explanation:
    """Where memory and time of one configuration go; fields not given are as in the best of the plan.

    Raises BadInput where it is illegal.
    """
    model, group = resolve(request.model), parse_inventory(request.gpus, request.ray_address).group
    found = plan(request)
    usual = found.ranked[0] if found.ranked else found.nearest
    assert usual is not None
    config = TrainingConfig.parse({**usual.config.model_dump(), **given})
    facts = _facts(request, model, group, usual.world_size)
    if DERIVED not in given:
        (steps,) = accumulation_steps(Columns.of([config]), facts)
        config = config.model_copy(update={DERIVED: int(steps)})
    if reason := why_illegal(config, replace(facts, global_batch_size=None)):
        raise BadInput(f"that configuration cannot be: {reason}")
    columns = Columns.of([config])
    one = forecast(model.shape, group, usual.world_size, columns)
    parts = break_down(model.shape, group, usual.world_size, config)
    ceiling = ceiling_bytes(request.ceiling, group)
    return Explanation(
        config=config,
        gpus=_gpus(group, usual.world_size),
        world_size=usual.world_size,
        ceiling_bytes=ceiling,
        headroom=request.headroom,
        fits=bool(one.device_bytes[0] <= int(ceiling * (1 - request.headroom))),
        peak_bytes=int(one.peak_bytes[0]),
        reserved_bytes=int(one.reserved_bytes[0]),
        phases={phase: dict(found_parts) for phase, found_parts in parts.phases.items()},
        tokens_per_second=float(one.tokens_per_second[0]),
        step_s=float(one.step_s[0]),
        seconds=dict(parts.seconds),
        mfu=None if one.mfu is None else float(one.mfu[0]),
        unprobed=why_unprobed(config, group.gpu.features),
    )


def _plan_group(request: PlanRequest, model: ResolvedModel, group: NodeGroup, name: str) -> _Planned:
    try:
        space, notes = space_for(name, request.settings, model.shape)
        world_size = space.world_size or group.world_size
        if world_size > group.world_size:
            raise BadInput(
                f"the space {name!r} is for {world_size} ranks, the inventory has {group.world_size} devices"
            )
        facts = _facts(request, model, group, world_size)
        enumeration = space.enumerate(facts)
    except ContractError as error:
        raise BadInput(str(error)) from error
    if not len(enumeration.columns):
        most = sorted(enumeration.rejected, key=lambda rejection: -rejection.count)
        reasons = "; ".join(rejection.reason for rejection in most[:3])
        raise BadInput(f"no configuration of the space {name!r} is legal here: {reasons}")
    predicted = forecast(model.shape, group, world_size, enumeration.columns)
    return _Planned(
        model=model,
        group=group,
        facts=facts,
        ceiling_bytes=ceiling_bytes(request.ceiling, group),
        headroom=request.headroom,
        columns=enumeration.columns,
        forecast=predicted,
        rejected=enumeration.rejected,
        notes=notes,
    )


def _facts(request: PlanRequest, model: ResolvedModel, group: NodeGroup, world_size: int) -> Facts:
    return facts_of(
        model.shape,
        group,
        world_size,
        global_batch_size=request.global_batch_size,
        global_batch_tolerance=request.global_batch_tolerance,
        to_probe=False,
    )


def _answer(
    request: PlanRequest, model: ResolvedModel, planned: Sequence[_Planned], tried: Sequence[str]
) -> Plan:
    first = planned[0]
    best = [row for one in planned for row in one.best(request.top)]
    best.sort(key=lambda row: -row.tokens_per_second)
    notes = [*model.notes, *planned[0].notes]
    if len(tried) > 1:
        notes.append(f"nothing of the space {' and '.join(tried[:-1])} fits, so this is of {tried[-1]}")
    nearest = None if best else min((one.leanest() for one in planned), key=_device_bytes)
    return Plan(
        model=model.spec.name,
        parameters=model.shape.num_parameters,
        gpus=" + ".join(_gpus(one.group, one.facts.world_size) for one in planned),
        space=tried[-1],
        ceiling_bytes=first.ceiling_bytes,
        headroom=request.headroom,
        candidates=sum(len(one.columns) for one in planned),
        fitting=sum(int(np.count_nonzero(one.fits)) for one in planned),
        ranked=tuple(best[: request.top]),
        nearest=nearest,
        advice=() if nearest is None else tuple(_advice(first, nearest)),
        rejected=tuple(_rejections(planned)),
        notes=tuple(notes),
    )


def _rejections(planned: Sequence[_Planned]) -> Iterator[Rejected]:
    """The illegal ones by rule, then those that do not fit."""
    for one in planned:
        for rejection in one.rejected:
            yield Rejected(code=rejection.code, reason=rejection.reason, count=rejection.count)
        if too_large := int(np.count_nonzero(~one.fits)):
            reason = f"the forecast peak is beyond the usable {format_bytes(one.usable_bytes)}"
            yield Rejected(code="memory", reason=reason, count=too_large)


def _advice(planned: _Planned, nearest: PlanRow) -> Iterator[str]:
    """What would make room: memory, other choices, more of the same GPUs."""
    short = _device_bytes(nearest) - planned.usable_bytes
    yield f"{format_bytes(short)} more per GPU would do"
    if (switch := _switch(planned, nearest.config)) is not None:
        yield f"--set {' --set '.join(f'{name}={value}' for name, value in switch.items())} would fit"
    if (needed := _gpus_needed(planned, nearest.config)) is not None:
        yield f"{needed:,} such GPUs would do"


def _switch(planned: _Planned, config: TrainingConfig) -> Mapping[str, Value] | None:
    """The fewest changes, among those tried, under which the configuration fits."""
    changes: dict[str, Value] = {}
    for relaxation in RELAXATIONS:
        for settings in (relaxation, {**changes, **relaxation}):
            changed = {name: value for name, value in settings.items() if getattr(config, name) != value}
            if changed and _would_fit(planned, config.model_copy(update=changed), planned.facts.world_size):
                return changed
        changes |= {name: value for name, value in relaxation.items() if name not in changes}
    return None


def _gpus_needed(planned: _Planned, config: TrainingConfig) -> int | None:
    """The smallest power of two times the GPUs over which it fits, sharded and checkpointed if need be."""
    sharded = config.model_copy(update={"sharding": "fsdp"})
    least = sharded.model_copy(update={"activation_checkpointing": "full"})
    times = 2
    while times <= MAX_TIMES_MORE:
        world_size = planned.facts.world_size * times
        if any(_would_fit(planned, one, world_size) for one in (config, sharded, least)):
            return world_size
        times *= 2
    return None


def _would_fit(planned: _Planned, config: TrainingConfig, world_size: int) -> bool:
    group = planned.group
    per_node = max(group.gpus_per_node, min(world_size, 8))
    larger = replace(group, num_nodes=max(1, world_size // per_node), gpus_per_node=per_node)
    group = group if world_size <= group.world_size else larger
    facts = replace(
        planned.facts,
        world_size=world_size,
        gpus_per_node=min(group.gpus_per_node, world_size),
        global_batch_size=None,
    )
    if why_illegal(config, facts):
        return False
    found = forecast(planned.model.shape, group, world_size, Columns.of([config]))
    return bool(found.device_bytes[0] <= planned.usable_bytes)


def _device_bytes(row: PlanRow) -> int:
    return row.reserved_bytes + row.memory["fixed"]


def _gpus(group: NodeGroup, world_size: int) -> str:
    return f"{world_size} × {group.gpu.name}"
