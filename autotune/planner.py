"""`autotune plan`: every legal configuration forecast and ranked, without a GPU and without a database."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from autotune.errors import BadInput, NothingFits, about
from autotune.forecast.forecast import break_down, forecast, usable_host_bytes
from autotune.group_plan import GroupPlan, advice_for, foremost, plan_groups
from autotune.hardware.inventory import NodeGroup
from autotune.hardware.parse import parse_inventory
from autotune.hardware.sizes import format_bytes
from autotune.models.resolve import ResolvedModel, resolve
from autotune.models.traced import trace
from autotune.report.plan import Explanation, Plan, Rejected
from autotune.request import PlanRequest
from autotune.search.candidates import too_large_for_host
from search_spaces.columns import Columns, Value
from search_spaces.constraints import accumulation_steps, why_illegal, why_unprobed
from search_spaces.dimensions import DERIVED
from trials.contract.config import TrainingConfig


def plan(request: PlanRequest) -> Plan:
    """Forecast every legal configuration and rank what fits, of each group of nodes on its own.

    Without a named space those that suit the inventory are tried in turn, from full training to LoRA, until
    something fits. Raises BadInput where no configuration is legal.
    """
    model, groups = _premises(request)
    planned, notes = plan_groups(request, model, groups)
    found = _answer(request, model, planned, notes)
    return _traced(found, model, request.trace)


def _premises(request: PlanRequest) -> tuple[ResolvedModel, tuple[NodeGroup, ...]]:
    with about("model"):
        model = resolve(request.model, request.model_name)
    with about("gpus"):
        return model, parse_inventory(request.gpus, request.ray_address).groups


def save_plot(found: Plan, path: Path) -> None:
    """Write the plan's plots as one file, .html or .png; raises BadInput where it cannot be written."""
    from autotune.report.plots import save_plan  # plotly takes longer to import than a plan to make

    save_plan(found, path)


def require_something(found: Plan) -> None:
    """Raise NothingFits, with what comes nearest and what would help, where a plan has nothing to offer."""
    if found.nearest is None:
        return
    needed = found.nearest.device_bytes
    raise NothingFits(
        f"nothing fits on {found.gpus} under {format_bytes(found.ceiling_bytes)}: the smallest configuration "
        f"of the space {found.space!r} would hold {format_bytes(needed)}; {'; '.join(found.advice)}"
    )


def _traced(found: Plan, model: ResolvedModel, count: int) -> Plan:
    """The plan with the peak of the first `count` rows found on the real model."""
    rows, notes = list(found.ranked), list(found.notes)
    for index, row in enumerate(rows[:count]):
        result = trace(model.spec, row.config, row.world_size, row.num_nodes)
        if isinstance(result, str):
            notes.append(f"row {index + 1} was not traced: {result}")
        else:
            rows[index] = row.model_copy(update={"traced_bytes": result.peak_bytes})
    return found.model_copy(update={"ranked": tuple(rows), "notes": tuple(notes)})


def explain(request: PlanRequest, given: Mapping[str, Value]) -> Explanation:
    """Where memory and time of one configuration go; fields not given are as in the best of the plan.

    Raises BadInput where it is illegal.
    """
    model, groups = _premises(request)
    planned, usual = foremost(plan_groups(request, model, groups)[0])
    config = TrainingConfig.parse({**usual.config.model_dump(), **given})
    facts, group = planned.facts, planned.group
    if DERIVED not in given:
        (steps,) = accumulation_steps(Columns.of([config]), facts)
        config = config.model_copy(update={DERIVED: int(steps)})
    facts = replace(facts, global_batch_size=None)
    if reason := why_illegal(config, facts):
        raise BadInput(f"that configuration cannot be: {reason}")
    columns = Columns.of([config])
    plain = forecast(model.shape, group, usual.world_size, columns)
    calibrated = planned.calibration.apply(model.spec.digest, usual.world_size, columns, plain)
    one = calibrated.forecast
    parts = break_down(model.shape, group, usual.world_size, config)
    larger, longer = one.reserved_bytes[0] / plain.reserved_bytes[0], one.step_s[0] / plain.step_s[0]
    outside = int(one.parts["fixed"][0])
    fits = calibrated.fits(planned.ceiling_bytes, planned.usable_bytes) & one.fits_host(group)
    return Explanation(
        config=config,
        gpus=planned.gpus,
        world_size=usual.world_size,
        ceiling_bytes=planned.ceiling_bytes,
        headroom=request.headroom,
        fits=bool(fits[0]),
        peak_bytes=int(one.peak_bytes[0]),
        reserved_bytes=int(one.reserved_bytes[0]),
        host_bytes=int(one.host_bytes[0]),
        usable_host_bytes=usable_host_bytes(group),
        phases={
            phase: {name: round(part * larger) for name, part in found.items()} | {"fixed": outside}
            for phase, found in parts.phases.items()
        },
        tokens_per_second=float(one.tokens_per_second[0]),
        step_s=float(one.step_s[0]),
        seconds={name: seconds * longer for name, seconds in parts.seconds.items()},
        mfu=None if one.mfu is None else float(one.mfu[0]),
        unprobed=why_unprobed(config, facts),
    )


def _answer(
    request: PlanRequest, model: ResolvedModel, planned: Sequence[GroupPlan], notes: Sequence[str]
) -> Plan:
    best = [row for one in planned for row in one.best(request.top)]
    best.sort(key=lambda row: -row.tokens_per_second)
    group, first = foremost(planned)
    return Plan(
        model=model.spec.name,
        parameters=model.shape.num_parameters,
        gpus=" + ".join(one.gpus for one in planned),
        space=" and ".join(dict.fromkeys(one.space for one in planned)),
        ceiling_bytes=group.ceiling_bytes,
        headroom=request.headroom,
        calibrated_by=sum(len(one.calibration) for one in planned),
        candidates=sum(len(one.columns) for one in planned),
        fitting=sum(int(np.count_nonzero(one.fits)) for one in planned),
        ranked=tuple(best[: request.top]),
        nearest=None if best else first,
        advice=() if best else tuple(advice_for(group, first)),
        rejected=tuple(_rejections(planned)),
        notes=(*model.notes, *dict.fromkeys(_notes(planned)), *notes),
    )


def _notes(planned: Sequence[GroupPlan]) -> Iterator[str]:
    for one in planned:
        yield from one.notes
        if one.without:
            where = f" on {one.gpus}" if len(planned) > 1 else ""
            yield f"nothing of the space {' and '.join(one.without)} fits{where}, so this is of {one.space}"


def _rejections(planned: Sequence[GroupPlan]) -> Iterator[Rejected]:
    """The illegal ones by rule, then those that do not fit."""
    for one in planned:
        where = f"on {one.gpus}: " if len(planned) > 1 else ""
        for rejection in one.rejected:
            yield Rejected(code=rejection.code, reason=where + rejection.reason, count=rejection.count)
        if too_large := int(np.count_nonzero(~one.fits & one.on_host)):
            reason = f"{where}the forecast peak is beyond the usable {format_bytes(one.usable_bytes)}"
            yield Rejected(code="memory", reason=reason, count=too_large)
        if too_much := int(np.count_nonzero(~one.on_host)):
            yield Rejected(code="host_memory", reason=where + too_large_for_host(one.group), count=too_much)
