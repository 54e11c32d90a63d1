"""`GroupPlan`: one space forecast on one group of nodes; `plan_groups` makes those of an inventory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BadInput, StorageUnavailable, about
from autotune.forecast.calibration import Calibrated, Calibration
from autotune.forecast.forecast import Forecast, forecast, usable_host_bytes
from autotune.hardware.inventory import NodeGroup
from autotune.hardware.sizes import format_bytes
from autotune.models.resolve import ResolvedModel
from autotune.report.plan import PlanRow
from autotune.request import PlanRequest, ceiling_bytes, default_spaces, space_for
from autotune.search.advice import advice
from autotune.search.facts import facts_of
from search_spaces.columns import Columns
from search_spaces.constraints import Rejection, why_illegal, why_unprobed
from search_spaces.rules import Facts
from trials.contract.config import TrainingConfig
from trials.contract.message import ContractError


@dataclass(frozen=True, eq=False)
class GroupPlan:
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
    space: str
    without: tuple[str, ...] = ()
    """Spaces that were looked at before, in vain."""

    @property
    def usable_bytes(self) -> int:
        return int(self.ceiling_bytes * (1 - self.headroom))

    @property
    def forecast(self) -> Forecast:
        return self.calibrated.forecast

    @property
    def gpus(self) -> str:
        return _gpus(self.group, self.facts.world_size)

    @cached_property
    def fits(self) -> NDArray[np.bool_]:
        return self.calibrated.fits(self.ceiling_bytes, self.usable_bytes) & self.on_host

    @cached_property
    def on_host(self) -> NDArray[np.bool_]:
        return self.forecast.fits_host(self.group)

    def best(self, top: int) -> list[PlanRow]:
        """The fastest that fit; of equally fast ones the leanest first."""
        rows = np.flatnonzero(self.fits)
        if len(rows) > top:  # sort only what can be among them
            speed = self.forecast.tokens_per_second[rows]
            rows = rows[speed >= np.partition(speed, -top)[-top]]
        order = np.lexsort((self.forecast.device_bytes[rows], -self.forecast.tokens_per_second[rows]))
        return [self.row(int(index)) for index in rows[order[:top]]]

    def leanest(self) -> PlanRow:
        return self.row(self.forecast.leanest(self.group))

    def row(self, index: int) -> PlanRow:
        found, config = self.forecast, self.columns.config(index)
        return PlanRow(
            config=config,
            gpus=self.gpus,
            world_size=self.facts.world_size,
            num_nodes=-(-self.facts.world_size // self.group.gpus_per_node),
            ceiling_bytes=self.ceiling_bytes,
            tokens_per_second=float(found.tokens_per_second[index]),
            step_s=float(found.step_s[index]),
            mfu=None if found.mfu is None else float(found.mfu[index]),
            peak_bytes=int(found.peak_bytes[index]),
            reserved_bytes=int(found.reserved_bytes[index]),
            host_bytes=int(found.host_bytes[index]),
            memory={name: int(part[index]) for name, part in found.parts.items()},
            fits=bool(self.fits[index]),
            unprobed=why_unprobed(config, self.facts),
        )


def plan_groups(
    request: PlanRequest, model: ResolvedModel, groups: Sequence[NodeGroup]
) -> tuple[list[GroupPlan], tuple[str, ...]]:
    """Each group on the space that has something for it, and in words what was left out.

    Spaces of full training are exhausted on all groups before others are looked at on any. Raises BadInput
    where no group has a legal configuration.
    """
    taught, notes = _experience(request.storage, groups)
    turns: list[tuple[tuple[str | Mapping[str, Any], ...], ...]] = [
        default_spaces(group) if request.space is None else ((request.space,),) for group in groups
    ]
    planned: dict[int, GroupPlan] = {}
    refused: dict[int, BadInput] = {}
    for turn in range(max(map(len, turns))):
        for index, (group, calibration) in enumerate(zip(groups, taught, strict=True)):
            for chosen in turns[index][turn] if turn < len(turns[index]) else ():
                try:
                    found = _plan_group(request, model, group, chosen, calibration)
                except BadInput as error:  # another space may have what this one lacks
                    refused.setdefault(index, error)
                    continue
                before = planned.get(index)
                without = (*before.without, before.space) if before else ()
                planned[index] = replace(found, without=without)
                if found.fits.any():
                    break
        if any(one.fits.any() for one in planned.values()):
            break
    if not planned:
        raise refused[min(refused)]
    left_out = [
        f"not planned on {_gpus(groups[index], groups[index].world_size)}: {error}"
        for index, error in refused.items()
        if index not in planned
    ]
    return [planned[index] for index in sorted(planned)], (*left_out, *notes)


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


def _plan_group(
    request: PlanRequest,
    model: ResolvedModel,
    group: NodeGroup,
    chosen: str | Mapping[str, Any],
    calibration: Calibration,
) -> GroupPlan:
    try:
        space, notes = space_for(chosen, request.settings, model.shape)
        name = chosen if isinstance(chosen, str) else space.name
        world_size = space.world_size or group.world_size
        if world_size > group.world_size:
            raise BadInput(
                f"the space {name!r} is for {world_size} ranks, the inventory has {group.world_size} devices"
            )
        facts = _facts(request, model, group, world_size)
        enumeration = space.enumerate(facts)
    except ContractError as error:
        with about("space"):
            raise BadInput(str(error)) from error
    if not len(enumeration.columns):
        most = sorted(enumeration.rejected, key=lambda rejection: -rejection.count)
        reasons = "; ".join(rejection.reason for rejection in most[:3])
        raise BadInput(f"no configuration of the space {name!r} is legal here: {reasons}")
    predicted = forecast(model.shape, group, world_size, enumeration.columns)
    return GroupPlan(
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
        space=name,
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


def foremost(planned: Sequence[GroupPlan]) -> tuple[GroupPlan, PlanRow]:
    """The group with the fastest row that fits; where nothing does, with what comes nearest to it."""
    best = [(one, row) for one in planned for row in one.best(1)]
    if best:
        return max(best, key=lambda pair: pair[1].tokens_per_second)
    return min(
        ((one, one.leanest()) for one in planned),
        key=lambda pair: pair[1].device_bytes / pair[0].usable_bytes,
    )


def advice_for(planned: GroupPlan, nearest: PlanRow) -> Iterator[str]:
    host = usable_host_bytes(planned.group)
    if host is not None and nearest.host_bytes > host:
        missing = format_bytes(nearest.host_bytes - host)
        yield f"{missing} more CPU memory per node would do for what it offloads"
    short = nearest.device_bytes - planned.usable_bytes
    yield from advice(
        nearest.config, planned.facts.world_size, short, lambda c, world: _would_fit(planned, c, world)
    )


def _would_fit(planned: GroupPlan, config: TrainingConfig, world_size: int) -> bool:
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
    fits = found.fits(planned.ceiling_bytes, planned.usable_bytes) & found.forecast.fits_host(group)
    return bool(fits[0])


def _gpus(group: NodeGroup, world_size: int) -> str:
    return f"{world_size} × {group.gpu.name}"
