"""`Problem`: a job's specification worked out, with everything that follows from it without a probe."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autotune.errors import BadInput
from autotune.execution.executor import Layout
from autotune.forecast.forecast import Forecast, forecast
from autotune.hardware.inventory import Inventory, NodeGroup
from autotune.jobs import JobSpec
from autotune.models.shape import ModelShape
from autotune.search.baseline import default_baseline
from autotune.search.candidates import Candidates, gather
from autotune.search.facts import facts_of
from search_spaces.columns import Columns
from search_spaces.constraints import Facts, accumulation_steps, why_illegal
from search_spaces.dimensions import DERIVED
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
class Problem:
    """A job's specification, worked out: everything that follows from it without a probe."""

    spec: JobSpec
    shape: ModelShape
    group: NodeGroup
    candidates: Candidates
    baseline: TrainingConfig
    baseline_forecast: Forecast
    """Of the baseline, which need not be a candidate."""

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

    def forecast_of(self, config: TrainingConfig) -> tuple[Forecast, int]:
        """The table and row with the forecast of a candidate or of the baseline."""
        index = self.candidates.index(config)
        return (self.baseline_forecast, 0) if index is None else (self.candidates.forecast, index)


def work_out(spec: JobSpec) -> Problem:
    """Enumerate and forecast. Deterministic, so that a resumed job finds what it left.

    Raises BadInput for a baseline or a world that cannot run here, NothingFits where no candidate is left.
    """
    shape = ModelShape(**spec.shape)
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
        candidates = gather(shape, group, facts, space, spec.ceiling_bytes, spec.headroom)
        baseline = default_baseline(candidates)
        if spec.baseline is not None:
            baseline = _own_baseline(spec.baseline, baseline, candidates, facts)
    except ContractError as error:
        raise BadInput(str(error)) from error
    own_forecast = forecast(shape, group, spec.world_size, Columns.of([baseline]))
    return Problem(spec, shape, group, candidates, baseline, own_forecast)


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


def probe_request(problem: Problem, probe_id: str, config: TrainingConfig) -> ProbeRequest:
    table, row = problem.forecast_of(config)
    layout = problem.layout
    return ProbeRequest(
        probe_id=probe_id,
        model=problem.spec.model,
        config=config,
        device=layout.device,
        world_size=layout.world_size,
        num_nodes=layout.num_nodes,
        ceiling_bytes=problem.spec.ceiling_bytes,
        deadline_s=min(max(MIN_DEADLINE_S, DEADLINE_STEPS * float(table.step_s[row])), MAX_DEADLINE_S),
        seed=problem.spec.seed,
        measurement=MeasurementPlan(),
    )
