"""Warm up until the steps settle, then measure until the median is known well enough."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from trials.contract.messages import MeasurementPlan
from trials.contract.statistics import median_interval, relative_half_width
from trials.data import TokenBatches
from trials.devices import Device
from trials.engines import Engine

SETTLED = 0.10
"""Two consecutive steps that differ by less than this share have left the warm-up behind."""
MAX_SKIPPED_STEPS = 25
"""Steps a loss scaler may throw away before its infinite gradient norms count as non-finite: from
2^16 down to 1 takes 16."""


FAR_BEYOND = 1.1
"""Times the step to beat: more than a step's own noise makes of it."""
LEAST_TO_OUTPACE = 2
"""Steps before a configuration is given up."""


class NonFinite(ArithmeticError):
    """The loss or the gradient norm is not a number that training could go on from."""


@dataclass
class Measurement:
    """What the steps of one probe gave; equal on every rank."""

    step_s: list[float] = field(default_factory=list)
    """Seconds of the measured steps, each that of its slowest rank."""
    losses: list[float] = field(default_factory=list)
    """Global mean loss of every step, warm-up included."""
    gradient_norms: list[float] = field(default_factory=list)


class Stepper:
    """Runs optimizer steps one at a time, times them and keeps their figures."""

    def __init__(self, engine: Engine, batches: TokenBatches, device: Device, *, scaled: bool) -> None:
        self.measurement = Measurement()
        self._engine = engine
        self._batches = batches
        self._device = device
        self._steps = 0
        self._skips_left = MAX_SKIPPED_STEPS if scaled else 0

    def step(self) -> float:
        """One optimizer step from batch to updated weights; return the slowest rank's seconds.

        One that the loss scaler throws away updates nothing, so another takes its place.
        Raises NonFinite, on every rank alike.
        """
        seconds, norm = self._try()
        while not math.isfinite(norm):
            if not self._skips_left:
                raise NonFinite(f"the gradient norm of step {self._steps} is {norm}")
            self._skips_left -= 1
            seconds, norm = self._try()
        return seconds

    def _try(self) -> tuple[float, float]:
        """The slowest rank's seconds, and the gradient norm."""
        batches = self._batches.of_step(self._steps)
        self._steps += 1
        self._device.synchronise()
        start = time.perf_counter()
        outcome = self._engine.step(batches)
        self._device.synchronise()
        seconds = time.perf_counter() - start

        loss, norm, slowest = self._over_ranks(float(outcome.loss), float(outcome.gradient_norm), seconds)
        self.measurement.losses.append(loss)
        self.measurement.gradient_norms.append(norm)
        if not math.isfinite(loss):
            raise NonFinite(f"the loss of step {self._steps} is {loss}")
        return slowest, norm

    def _over_ranks(self, loss: float, norm: float, seconds: float) -> tuple[float, float, float]:
        """Mean loss, largest norm and time: the same figures, so the same decisions, on every rank."""
        if not dist.is_initialized():
            return loss, norm, seconds
        mine = torch.tensor([loss, norm, seconds], dtype=torch.float64, device=self._device.torch_device)
        every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(every, mine)
        losses, norms, times = torch.stack(every).cpu().unbind(dim=1)
        return float(losses.mean()), float(norms.max()), float(times.max())


def warm_up(stepper: Stepper, plan: MeasurementPlan) -> None:
    """Step until optimizer states exist and two consecutive steps take about as long, or far too long."""
    previous = math.inf
    for count in range(1, plan.max_warm_up_steps + 1):
        seconds = stepper.step()
        settled = abs(seconds - previous) <= SETTLED * previous
        if count >= plan.min_warm_up_steps and (settled or why_outpaced([previous, seconds], plan)):
            return
        previous = seconds


def measure(stepper: Stepper, plan: MeasurementPlan, on_step: Callable[[int], None]) -> str | None:
    """Step until the median's interval is narrow enough, a budget of the plan ends, or there is nothing to
    win: then return why, else None.
    """
    steps = stepper.measurement.step_s
    while len(steps) < plan.max_steps:
        steps.append(stepper.step())
        on_step(len(steps))
        if outpaced := why_outpaced(steps, plan):
            return outpaced
        if len(steps) >= plan.least_steps and sum(steps) >= plan.max_measure_s:
            break
        narrow = relative_half_width(median_interval(steps)) <= plan.relative_half_width
        if len(steps) >= plan.min_steps and narrow:
            break
    return None


def why_outpaced(steps: Sequence[float], plan: MeasurementPlan) -> str | None:
    """Why a configuration with such steps can no longer be the best, in words; None where it can.

    It cannot when even the fastest of them is far beyond the step to beat or, from enough steps on, the whole
    interval of their median is beyond it.
    """
    if plan.step_to_beat_s is None or len(steps) < LEAST_TO_OUTPACE:
        return None
    best = f"that of the best so far takes {plan.step_to_beat_s:.3g} s"
    if min(steps) > plan.step_to_beat_s * FAR_BEYOND:
        return f"its fastest step took {min(steps):.3g} s; {best}"
    interval = median_interval(steps)
    if len(steps) >= plan.min_steps and interval.low > plan.step_to_beat_s:
        return f"its median step takes {interval.low:.3g} s or more; {best}"
    return None
