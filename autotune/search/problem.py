"""`Problem`: a job's specification worked out, with everything that follows from it without a probe."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from autotune.errors import BadInput
from autotune.execution.executor import Layout
from autotune.forecast.forecast import Forecast, forecast
from autotune.hardware.inventory import Inventory, NodeGroup
from autotune.jobs import JobSpec
from autotune.models.shape import ModelShape
from autotune.search.baseline import default_baseline
from autotune.search.candidates import Candidates, gather, why_none
from autotune.search.facts import facts_of
from search_spaces.columns import Columns
from search_spaces.constraints import accumulation_steps, why_illegal
from search_spaces.dimensions import DERIVED
from search_spaces.rules import Facts
from search_spaces.space import SearchSpace
from trials.contract.config import TrainingConfig
from trials.contract.message import ContractError
from trials.contract.messages import MeasurementPlan, ProbeRequest

MIN_DEADLINE_S = 120.0
MAX_DEADLINE_S = 24 * 3600.0
DEADLINE_STEPS = 60
"""A probe may take this many forecast steps, and never less than the minimum, before it is timed out: a
forecast that is wrong by less than a factor of two cannot end one."""


@dataclass(frozen=True)
class Premises:
    """What a recorded job rests on, whatever this autotune would forecast or choose today."""

    spec: JobSpec
    shape: ModelShape
    group: NodeGroup

    @property
    def baseline(self) -> TrainingConfig:
        assert self.spec.chosen_baseline is not None, "a job is worked out before it is recorded"
        return self.spec.chosen_baseline

    @property
    def layout(self) -> Layout:
        """How its probes lie on the inventory."""
        group, world_size = self.group, self.spec.world_size
        if world_size > group.gpus_per_node:
            nodes = world_size // group.gpus_per_node
            return Layout(group.gpu.kind, nodes, group.gpus_per_node, group.num_nodes // nodes)
        # No probe of one node's size straddles two.
        slots = group.num_nodes * (group.gpus_per_node // world_size)
        return Layout(group.gpu.kind, 1, world_size, slots)

    def forecast_of(self, *configs: TrainingConfig) -> Forecast:
        """One row of each; they may be any that are legal here."""
        return forecast(self.shape, self.group, self.spec.world_size, Columns.of(configs))


@dataclass(frozen=True)
class Problem(Premises):
    """A job's specification, worked out: everything that follows from it without a probe."""

    candidates: Candidates


def premises(spec: JobSpec) -> Premises:
    """Of a recorded job; raises nothing on account of a forecast."""
    if spec.chosen_baseline is None:  # recorded by an autotune that did not keep what it chose
        return work_out(spec)
    return Premises(spec, ModelShape.from_dict(spec.shape), Inventory.from_dict(spec.inventory).group)


def work_out(spec: JobSpec, pinned: AbstractSet[str] = frozenset()) -> Problem:
    """Enumerate and forecast, and choose the baseline where that is still to be done.

    A job whose baseline stands was worked out before it was recorded: it may have other candidates today,
    or none that is left to probe. Of another, raises BadInput for a baseline or a world that cannot run
    here and for a space in which nothing is legal, NothingFits where no candidate is left. `pinned` are
    the fields that the user set.
    """
    shape = ModelShape.from_dict(spec.shape)
    group = Inventory.from_dict(spec.inventory).group
    _check_world(spec.world_size, group)
    space = SearchSpace.parse(spec.space)
    if spec.global_batch_size is not None and DERIVED in space.dimensions:
        raise BadInput(
            f"a global batch of {spec.global_batch_size} decides {DERIVED}, which is pinned as well; "
            "leave one of the two out"
        )
    facts = facts_of(
        shape,
        group,
        spec.world_size,
        global_batch_size=spec.global_batch_size,
        global_batch_tolerance=spec.global_batch_tolerance,
    )
    try:
        candidates = gather(shape, group, facts, space, spec.ceiling_bytes, spec.usable_bytes)
        if spec.chosen_baseline is None:
            if not len(candidates):
                raise why_none(candidates, space.name, spec.headroom, group.gpu.memory_bytes, pinned)
            baseline = default_baseline(candidates)
            if spec.baseline is not None:
                baseline = _own_baseline(spec.baseline, baseline, candidates, facts)
            spec = spec.model_copy(update={"chosen_baseline": baseline})
    except ContractError as error:
        raise BadInput(str(error)) from error
    return Problem(spec, shape, group, candidates)


def _check_world(world_size: int, group: NodeGroup) -> None:
    """Raise BadInput for a world that the inventory has no room for, or that fills its nodes in part."""
    if world_size > group.world_size:
        raise BadInput(f"the space is for {world_size} ranks, the inventory has {group.world_size} devices")
    if world_size > group.gpus_per_node and world_size % group.gpus_per_node:
        raise BadInput(
            f"the space's {world_size} ranks do not fill whole nodes of {group.gpus_per_node} devices"
        )


def _own_baseline(
    given: Mapping[str, Any], usual: TrainingConfig, candidates: Candidates, facts: Facts
) -> TrainingConfig:
    """The user's present configuration; what they did not say is as in the usual one.

    Its global batch need not be the one that is asked for, unless it says nothing of accumulation.
    Raises BadInput where it cannot run here, or trains at another length than the job's.
    """
    baseline = TrainingConfig.parse({**usual.model_dump(), **given})
    if DERIVED not in given:
        (steps,) = accumulation_steps(Columns.of([baseline]), facts)
        baseline = baseline.model_copy(update={DERIVED: int(steps)})
    if reason := why_illegal(baseline, replace(facts, global_batch_size=None)):
        raise BadInput(f"the baseline cannot run here: {reason}")
    lengths = candidates.columns.distinct("sequence_length")
    if baseline.sequence_length not in lengths:
        known = " and ".join(map(str, lengths))
        own = f"sequence_length={baseline.sequence_length}"
        raise BadInput(
            f"the baseline trains at {own}, the job at {known}, and speeds at different lengths do not "
            f"compare; --set {own} searches at the baseline's"
        )
    return baseline


def probe_request(
    problem: Problem, probe_id: str, config: TrainingConfig, plan: MeasurementPlan
) -> ProbeRequest:
    step_s = float(problem.forecast_of(config).step_s[0])
    layout = problem.layout
    return ProbeRequest(
        probe_id=probe_id,
        model=problem.spec.model,
        config=config,
        device=layout.device,
        world_size=layout.world_size,
        num_nodes=layout.num_nodes,
        ceiling_bytes=problem.spec.ceiling_bytes,
        deadline_s=min(max(MIN_DEADLINE_S, DEADLINE_STEPS * step_s), MAX_DEADLINE_S),
        seed=problem.spec.seed,
        measurement=plan,
    )
