"""Seconds of an optimizer step: microbatches through the stages, then reduction and update."""

from typing import NamedTuple

from autotune.forecast.activations import Activations
from autotune.forecast.case import Case
from autotune.forecast.communication import communication
from autotune.forecast.compute import gradient_accumulation, micro_step, optimizer_step
from autotune.forecast.formats import Floats
from autotune.forecast.states import parameters, stages, states


class StepTime(NamedTuple):
    """What an optimizer step's seconds are spent on, arrays of shape (n,) or (1,)."""

    forward: Floats
    backward: Floats
    """With what checkpointing recomputes, and the writing and adding up of gradients."""
    communication: Floats
    """Collectives, sends, and copies to and from CPU memory, that compute does not hide."""
    bubble: Floats
    """A pipeline of p stages idles for p − 1 microbatches while it fills and drains."""
    update: Floats
    """Clipping and the optimizer."""

    @property
    def total(self) -> Floats:
        return self.forward + self.backward + self.communication + self.bubble + self.update


def step_time(case: Case, acts: Activations) -> StepTime:
    stage, *_ = stages(case)
    held = parameters(case, stage)
    compute = micro_step(case, stage, acts)
    sent = communication(case, stage, held, acts, compute)
    backward = compute.backward + gradient_accumulation(case, held)
    microbatch = compute.forward + backward + sent.per_microbatch
    return StepTime(
        forward=case.accumulation * compute.forward,
        backward=case.accumulation * backward,
        communication=case.accumulation * sent.per_microbatch + sent.per_step,
        bubble=(case.stages - 1) * microbatch,
        update=optimizer_step(case, held, states(case, held)),
    )
