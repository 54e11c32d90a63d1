"""Calibration: forecasts brought to what was measured on the same hardware.

Three things are learned from probes, of the model that is forecast and of others: how far memory of tensors
and speed are off, as residuals; and what really lies outside tensors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autotune.forecast.factors import Factors
from autotune.forecast.forecast import Forecast
from autotune.forecast.formats import Floats
from autotune.forecast.residuals import MEMORY, SPEED, Process, Residuals
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig
from trials.contract.messages import MemoryPeaks, ProbeResult

RESIDENT_BLUR_BYTES = 24 << 20
"""Standard deviation of a resident set about the tensors in it: pages of libraries, operators' scratch.
Measured (benchmarks/forecast_against_probes.py)."""


@dataclass(frozen=True)
class Observation:
    """A probe beside its forecast. Residuals are logarithms of measured over forecast."""

    model: str
    """Digest of the model's specification."""
    world_size: int
    config: TrainingConfig
    speed: float
    """Residual of tokens/s."""
    speed_noise: float
    """Its standard deviation."""
    memory: float
    """Residual of what the allocator holds."""
    memory_noise: float
    """Its standard deviation."""
    outside_bytes: float
    """Measured less forecast bytes outside tensors."""

    @classmethod
    def of(
        cls, model: str, world_size: int, config: TrainingConfig, result: ProbeResult, forecast: Forecast
    ) -> "Observation | None":
        """`forecast` has one row, that of `config`. None where nothing was measured."""
        speed = result.tokens_per_second
        if speed is None or speed.median <= 0 or not result.memory:
            return None
        worst = max(result.memory, key=lambda peaks: peaks.device_bytes)
        expected = int(forecast.parts["fixed"][0])
        outside = outside_bytes(worst, expected)
        return cls(
            model=model,
            world_size=world_size,
            config=config,
            speed=float(np.log(speed.median / forecast.tokens_per_second[0])),
            speed_noise=max(SPEED.noise, (speed.high - speed.low) / speed.median / 4),
            memory=float(np.log(max(worst.device_bytes - outside, 1) / forecast.reserved_bytes[0])),
            memory_noise=math.hypot(MEMORY.noise, _blur_bytes(worst) / forecast.reserved_bytes[0]),
            outside_bytes=float(outside - expected),
        )


def outside_bytes(peaks: MemoryPeaks, expected_bytes: int) -> int:
    """What a rank held outside tensors: beside its allocator or, where nothing tells, what is expected."""
    return expected_bytes if peaks.reserved_bytes is None else peaks.device_bytes - peaks.reserved_bytes


def _blur_bytes(peaks: MemoryPeaks) -> int:
    return RESIDENT_BLUR_BYTES if peaks.reserved_bytes is None else 0


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A forecast as measurements have it."""

    forecast: Forecast
    """As it is expected to be."""
    cautious_bytes: NDArray[np.int64]
    """Device bytes, shape (n,), with a standard deviation more of what is held for tensors."""

    def fits(self, ceiling_bytes: int, usable_bytes: int) -> NDArray[np.bool_]:
        """Whether what is expected is usable, and what is doubted still under the ceiling."""
        usable = self.forecast.device_bytes <= usable_bytes
        return usable & (self.cautious_bytes <= ceiling_bytes)


@dataclass(frozen=True)
class Calibration:
    """What there is to learn from; without observations a forecast stays as it is."""

    observations: Sequence[Observation] = ()

    def apply(self, model: str, world_size: int, columns: Columns, forecast: Forecast) -> Calibrated:
        """Bring the forecast of `columns` for a model and a world to what was measured."""
        if not self.observations:
            return Calibrated(forecast, forecast.device_bytes)
        # A model that nothing was observed of is like none of the others.
        wanted = Factors.of(columns, [self._digests.get(model, len(self._digests))], [world_size])
        speed, memory = self._speed.at(wanted), self._memory.at(wanted)
        outside = float(np.median(self._each("outside_bytes")))
        found = _corrected(forecast, speed, memory, outside)
        spare = found.reserved_bytes * np.expm1(memory.deviation)
        return Calibrated(found, found.device_bytes + spare.astype(np.int64))

    def __len__(self) -> int:
        return len(self.observations)

    @cached_property
    def _digests(self) -> dict[str, int]:
        """A number of each model that was observed."""
        return {digest: number for number, digest in enumerate({o.model: None for o in self.observations})}

    @cached_property
    def _observed(self) -> Factors:
        return Factors.of(
            Columns.of([o.config for o in self.observations]),
            [self._digests[o.model] for o in self.observations],
            [o.world_size for o in self.observations],
        )

    @cached_property
    def _speed(self) -> Process:
        return Process.of(SPEED, self._observed, self._each("speed"), self._each("speed_noise"))

    @cached_property
    def _memory(self) -> Process:
        return Process.of(MEMORY, self._observed, self._each("memory"), self._each("memory_noise"))

    def _each(self, name: str) -> Floats:
        return np.array([getattr(o, name) for o in self.observations])


def _corrected(forecast: Forecast, speed: Residuals, memory: Residuals, outside: float) -> Forecast:
    """The parts still add up: those of tensors grow alike, and `fixed` by what is outside of them."""
    times, faster = np.exp(memory.mean), np.exp(speed.mean)
    parts = {name: np.rint(part * times).astype(np.int64) for name, part in forecast.parts.items()}
    parts["fixed"] = np.maximum(forecast.parts["fixed"] + round(outside), 0)
    return replace(
        forecast,
        parts=parts,
        peak_bytes=sum(parts.values(), np.zeros(len(forecast), dtype=np.int64)),
        reserved_bytes=np.rint(forecast.reserved_bytes * times).astype(np.int64),
        step_s=forecast.step_s / faster,
        tokens_per_second=forecast.tokens_per_second * faster,
        mfu=None if forecast.mfu is None else forecast.mfu * faster,
    )
