"""`Problem`: a job's specification worked out, with everything that follows from it without a probe."""

from dataclasses import dataclass, replace

from autotune.errors import BadInput
from autotune.execution.executor import Layout
from autotune.hardware.inventory import Inventory, NodeGroup
from autotune.jobs import JobSpec
from autotune.models.shape import ModelShape
from autotune.search.baseline import default_baseline
from autotune.search.candidates import Candidates, gather
from search_spaces.columns import Columns
from search_spaces.constraints import Facts, accumulation_steps, why_illegal
from search_spaces.space import SearchSpace
from trials.contract.config import TrainingConfig
from trials.contract.message import ContractError
from trials.contract.messages import MeasurementPlan, ProbeRequest

MIN_DEADLINE_S = 120.0
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

    @property
    def layout(self) -> Layout:
        """How its probes lie on the inventory."""
        group, world_size = self.group, self.spec.world_size
        if world_size > group.gpus_per_node:
            return Layout(group.gpu.kind, world_size // group.gpus_per_node, group.gpus_per_node, 1)
        return Layout(group.gpu.kind, 1, world_size, group.world_size // world_size)


def work_out(spec: JobSpec) -> Problem:
    """Enumerate and forecast. Deterministic, so that a resumed job finds what it left.

    Raises BadInput for a baseline that cannot run here, NothingFits where no candidate is left.
    """
    shape = ModelShape(**spec.shape)
    group = Inventory.from_dict(spec.inventory).group
    space = SearchSpace.parse(spec.space)
    facts = Facts(
        world_size=spec.world_size,
        gpus_per_node=min(group.gpus_per_node, spec.world_size),
        features=group.gpu.features,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        num_layers=shape.num_layers,
        vocab_size=shape.vocab_size,
        max_positions=shape.max_positions,
        model_type=shape.model_type,
        global_batch_size=spec.global_batch_size,
        global_batch_tolerance=spec.global_batch_tolerance,
    )
    try:
        own_baseline = None if spec.baseline is None else _own_baseline(spec.baseline, facts)
        candidates = gather(shape, group, facts, space, spec.ceiling_bytes, spec.headroom)
    except ContractError as error:
        raise BadInput(str(error)) from error
    return Problem(spec, shape, group, candidates, own_baseline or default_baseline(candidates))


def _own_baseline(baseline: TrainingConfig, facts: Facts) -> TrainingConfig:
    """The user's present configuration, whose global batch need not be the one that is asked for.

    An accumulation of 1, which nobody need have said, is derived like any candidate's: the comparison is
    to be on equal terms. Raises BadInput where it cannot run here.
    """
    if baseline.gradient_accumulation_steps == 1:
        (steps,) = accumulation_steps(Columns.of([baseline]), facts)
        baseline = baseline.model_copy(update={"gradient_accumulation_steps": int(steps)})
    if reason := why_illegal(baseline, replace(facts, global_batch_size=None)):
        raise BadInput(f"the baseline cannot run here: {reason}")
    return baseline


def probe_request(problem: Problem, probe_id: str, config: TrainingConfig) -> ProbeRequest:
    index = problem.candidates.index(config)
    step_s = 0.0 if index is None else float(problem.candidates.forecast.step_s[index])
    layout = problem.layout
    return ProbeRequest(
        probe_id=probe_id,
        model=problem.spec.model,
        config=config,
        device=layout.device,
        world_size=layout.world_size,
        num_nodes=layout.num_nodes,
        ceiling_bytes=problem.spec.ceiling_bytes,
        deadline_s=max(MIN_DEADLINE_S, DEADLINE_STEPS * step_s),
        seed=problem.spec.seed,
        measurement=MeasurementPlan(),
    )
