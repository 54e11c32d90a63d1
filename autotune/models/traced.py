"""Peak memory of a configuration on the real model with fake tensors: `trials.trace` in its own process."""

from autotune.models.process import run_module
from trials.contract.config import TrainingConfig
from trials.contract.messages import ModelSpec, ProbeRequest, TraceResult

DEADLINE_S = 300.0
"""Two shallow models of any size take seconds; one whose layers all differ is traced whole."""


def trace(spec: ModelSpec, config: TrainingConfig, world_size: int, num_nodes: int) -> TraceResult | str:
    """The result, or the reason why there is none. Raises MachineFault where no process starts."""
    request = ProbeRequest(
        probe_id="trace", model=spec, config=config, world_size=world_size, num_nodes=num_nodes
    )
    finished = run_module("trials.trace", request.to_json(), DEADLINE_S)
    if finished.answer is None:
        return finished.last_line or f"the trace {finished.status}"
    return TraceResult.parse(finished.answer)
