"""`autotune plan`: every legal configuration forecast and ranked, without a GPU and without a database."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BadInput, NothingFits, StorageUnavailable
from autotune.forecast.calibration import Calibrated, Calibration
from autotune.forecast.forecast import Forecast, break_down, forecast
from autotune.hardware.inventory import NodeGroup
from autotune.hardware.parse import parse_inventory
from autotune.hardware.sizes import format_bytes
from autotune.models.resolve import ResolvedModel, resolve
from autotune.models.traced import trace
from autotune.report.plan import Explanation, Plan, PlanRow, Rejected
from autotune.request import ceiling_bytes, default_spaces, space_for
from autotune.search.advice import advice
from autotune.search.facts import facts_of
from search_spaces.columns import Columns, Value
from search_spaces.constraints import Facts, Rejection, accumulation_steps, why_illegal
from search_spaces.dimensions import DERIVED
from trials.contract.capabilities import why_unprobed
from trials.contract.config import TrainingConfig
from trials.contract.message import ContractError


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
    storage: str | None = None
    """URL of the database whose measurements calibrate the forecast; None: of none."""


@dataclass(frozen=True, eq=False)
class _Planned:
    """One space on one group of nodes."""

    model: ResolvedModel
    group: NodeGroup
    facts: Facts
    ceiling_bytes: int
    headroom: float
    columns: Columns
    calibration: Calibration
    calibrated: Calibrated
    rejected: tuple[Rejection, ...]
    notes: tuple[str, ...]

    @property
    def usable_bytes(self) -> int:
        return int(self.ceiling_bytes * (1 - self.headroom))

    @property
    def forecast(self) -> Forecast:
        return self.calibrated.forecast

    @cached_property
    def fits(self) -> NDArray[np.bool_]:
        return self.calibrated.fits(self.ceiling_bytes, self.usable_bytes)

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
            fits=bool(self.fits[index]),
            unprobed=why_unprobed(config, self.group.gpu.features),
        )


def plan(request: PlanRequest) -> Plan:
    """Forecast every legal configuration and rank what fits.

    Without a named space those that suit the inventory are tried in turn, from full training to LoRA, until
    something fits. Raises BadInput where no configuration is legal.
    """
    model, groups = resolve(request.model), parse_inventory(request.gpus, request.ray_address).groups
    taught, notes = _experience(request.storage, groups)
    names = [request.space] if request.space else default_spaces(groups[0])
    tried: list[str] = []
    planned: list[_Planned] = []
    refused: list[BadInput] = []
    for name in names:
        try:
            planned = [
                _plan_group(request, model, group, name, calibration)
                for group, calibration in zip(groups, taught, strict=True)
            ]
        except BadInput as error:  # another space may have what this one lacks
            refused.append(error)
            continue
        tried.append(name)
        if any(one.fits.any() for one in planned):
            break
    if not planned:
        raise refused[0]
    found = _answer(request, model, planned, tried)
    found = found.model_copy(update={"notes": (*found.notes, *notes)})
    return _traced(found, model, request.trace)


def _experience(
    storage: str | None, groups: Sequence[NodeGroup]
) -> tuple[list[Calibration], tuple[str, ...]]:
    """What there is to learn for each group, and in words what could not be learned.

    A database that cannot be opened is no reason not to plan. Raises BadInput where its address is none.
    """
    nothing = [Calibration()] * len(groups)
    if storage is None:
        return nothing, ()
    # Importing a database takes as long as a plan, and most have none.
    from autotune.storage.backend import may_exist

    try:
        exists = may_exist(storage)
    except StorageUnavailable as error:
        raise BadInput(str(error)) from error
    if not exists:
        return nothing, ()
    try:
        from autotune.search.experience import calibration_on
        from autotune.storage.repository import Repository

        with Repository(storage) as repository:
            return [calibration_on(group, repository) for group in groups], ()
    except StorageUnavailable as error:
        return nothing, (f"not calibrated by earlier measurements: {error}",)


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
    plain = forecast(model.shape, group, usual.world_size, columns)
    (calibration,), _ = _experience(request.storage, [group])
    calibrated = calibration.apply(model.spec.digest, usual.world_size, columns, plain)
    one = calibrated.forecast
    parts = break_down(model.shape, group, usual.world_size, config)
    larger, longer = one.reserved_bytes[0] / plain.reserved_bytes[0], one.step_s[0] / plain.step_s[0]
    outside = int(one.parts["fixed"][0])
    ceiling = ceiling_bytes(request.ceiling, group)
    usable = int(ceiling * (1 - request.headroom))
    return Explanation(
        config=config,
        gpus=_gpus(group, usual.world_size),
        world_size=usual.world_size,
        ceiling_bytes=ceiling,
        headroom=request.headroom,
        fits=bool(calibrated.fits(ceiling, usable)[0]),
        peak_bytes=int(one.peak_bytes[0]),
        reserved_bytes=int(one.reserved_bytes[0]),
        phases={
            phase: {name: round(part * larger) for name, part in found.items()} | {"fixed": outside}
            for phase, found in parts.phases.items()
        },
        tokens_per_second=float(one.tokens_per_second[0]),
        step_s=float(one.step_s[0]),
        seconds={name: seconds * longer for name, seconds in parts.seconds.items()},
        mfu=None if one.mfu is None else float(one.mfu[0]),
        unprobed=why_unprobed(config, group.gpu.features),
    )


def _plan_group(
    request: PlanRequest, model: ResolvedModel, group: NodeGroup, name: str, calibration: Calibration
) -> _Planned:
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
        calibration=calibration,
        calibrated=calibration.apply(model.spec.digest, world_size, enumeration.columns, predicted),
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
        calibrated_by=sum(len(one.calibration) for one in planned),
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
    short = _device_bytes(nearest) - planned.usable_bytes
    return advice(
        nearest.config, planned.facts.world_size, short, lambda c, world: _would_fit(planned, c, world)
    )


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
    columns = Columns.of([config])
    found = planned.calibration.apply(
        planned.model.spec.digest,
        world_size,
        columns,
        forecast(planned.model.shape, group, world_size, columns),
    )
    return bool(found.fits(planned.ceiling_bytes, planned.usable_bytes)[0])


def _device_bytes(row: PlanRow) -> int:
    return row.reserved_bytes + row.memory["fixed"]


def _gpus(group: NodeGroup, world_size: int) -> str:
    return f"{world_size} × {group.gpu.name}"
