"""Seconds of an optimizer step: microbatches through the stages, then reduction and update."""

from autotune.forecast.activations import Activations
from autotune.forecast.case import Case
from autotune.forecast.communication import communication
from autotune.forecast.compute import gradient_accumulation, micro_step, optimizer_step
from autotune.forecast.formats import Floats
from autotune.forecast.states import parameters, stages, states


def step_seconds(case: Case, acts: Activations) -> Floats:
    """Of every row, shape (n,) or (1,). A pipeline of p stages takes p − 1 microbatches to fill and drain."""
    stage, *_ = stages(case)
    held = parameters(case, stage)
    compute = micro_step(case, stage, acts)
    sent = communication(case, stage, held, compute)
    microbatch = compute.forward + compute.backward + sent.per_microbatch + gradient_accumulation(case, held)
    once = sent.per_step + optimizer_step(case, held, states(case, held))
    return (case.accumulation + case.stages - 1) * microbatch + once
