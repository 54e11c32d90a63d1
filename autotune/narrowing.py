"""`autotune spaces NAME --for MODEL`: what is left of a space on an inventory, and why not more."""

from autotune.errors import BadInput
from autotune.hardware.parse import parse_inventory
from autotune.models.resolve import resolve
from autotune.report.narrowed import LeftOut, NarrowedSpace
from autotune.report.plan import Rejected
from autotune.request import space_for
from autotune.search.facts import facts_of
from search_spaces.columns import Value
from search_spaces.rules import PARALLEL_SIZES, Facts
from search_spaces.space import SearchSpace
from trials.contract.message import ContractError


def narrow(
    name: str, model: str, gpus: str, *, ray_address: str | None = None, global_batch_size: int | None = None
) -> NarrowedSpace:
    """The values of each dimension that some legal configuration has, and why the others have gone.

    Of the inventory's first group of nodes. Raises BadInput for what cannot be read.
    """
    resolved, group = resolve(model), parse_inventory(gpus, ray_address).group
    try:
        space, notes = space_for(name, {}, resolved.shape)
        world_size = space.world_size or group.world_size
        facts = facts_of(resolved.shape, group, world_size, global_batch_size=global_batch_size)
        found = space.enumerate(facts)
    except ContractError as error:
        raise BadInput(str(error)) from error
    kept: dict[str, tuple[Value, ...]] = {}
    left_out: list[LeftOut] = []
    for field, values in space.dimensions.items():
        legal = set(found.columns.distinct(field)) if len(found.columns) else set()
        kept[field] = tuple(value for value in values if value in legal)
        left_out += [
            LeftOut(field=field, value=value, reason=_why_none_with(space, facts, field, value))
            for value in values
            if value not in legal
        ]
    return NarrowedSpace(
        space=space.name,
        model=resolved.spec.name,
        gpus=f"{world_size} × {group.gpu.name}",
        legal=len(found.columns),
        total=found.total,
        dimensions=kept,
        left_out=tuple(left_out),
        rejected=tuple(Rejected(code=r.code, reason=r.reason, count=r.count) for r in found.rejected),
        notes=notes,
    )


def _why_none_with(space: SearchSpace, facts: Facts, field: str, value: Value) -> str:
    """The reason for most of the configurations that have this value.

    Of parallel sizes those that have no other, which are legal sooner than any.
    """
    alone = {size: (1,) for size in PARALLEL_SIZES if field in PARALLEL_SIZES}
    rejected = space.narrowed({**alone, field: (value,)}).enumerate(facts).rejected
    about = [one for one in rejected if field in one.fields] or list(rejected)
    if not about:
        return "it goes with no other values that the space has"
    return max(about, key=lambda one: one.count).reason
