"""The candidates of a job: every legal configuration that may fit, with its forecast."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autotune.errors import NothingFits
from autotune.forecast.forecast import Forecast, forecast
from autotune.hardware.inventory import NodeGroup
from autotune.hardware.sizes import format_bytes
from autotune.models.shape import ModelShape
from search_spaces.columns import Columns
from search_spaces.constraints import Facts, Rejection
from search_spaces.space import SearchSpace
from trials.contract.config import TrainingConfig

Indices = NDArray[np.int64]

DOUBT = 0.25
"""A candidate is dropped unprobed only when its forecast peak exceeds what is usable by this share: the
forecast is not that wrong on any row measured so far, and a probe settles what lies closer."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """A table of n candidates, in the order of the space."""

    columns: Columns
    forecast: Forecast
    ceiling_bytes: int
    usable_bytes: int
    """Ceiling less headroom: what a peak may be at most to count as fitting."""
    rejected: tuple[Rejection, ...]
    """Illegal ones and those that cannot fit; with the candidates they add up to `total`."""
    total: int
    """Size of the whole product of the space."""
    _found: dict[TrainingConfig, int | None] = field(default_factory=dict, repr=False)
    """What `index` was asked for already."""

    def __len__(self) -> int:
        return len(self.columns)

    def config(self, index: int) -> TrainingConfig:
        return self.columns.config(index)

    def index(self, config: TrainingConfig) -> int | None:
        """Where `config` stands, or None where it is no candidate."""
        if config not in self._found:
            wanted = Columns.of([config])
            same = np.ones(len(self), dtype=np.bool_)
            for name, array in self.columns.values.items():
                same &= array == wanted.values[name][0]
            rows = np.flatnonzero(same)
            self._found[config] = int(rows[0]) if len(rows) else None
        return self._found[config]

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Mask of the candidates whose forecast peak is within what is usable."""
        return self.forecast.device_bytes <= self.usable_bytes


def gather(
    shape: ModelShape,
    group: NodeGroup,
    facts: Facts,
    space: SearchSpace,
    ceiling_bytes: int,
    headroom: float,
) -> Candidates:
    """Enumerate `space`, forecast every legal configuration and keep what may fit.

    Raises NothingFits, with the smallest ceiling that would do, when nothing is left.
    """
    enumeration = space.enumerate(facts)
    if not len(enumeration.columns):
        reasons = "; ".join(rejection.reason for rejection in enumeration.rejected[:3])
        raise NothingFits(f"no configuration of the space {space.name!r} is legal here: {reasons}")
    predicted = forecast(shape, group, facts.world_size, enumeration.columns)
    usable_bytes = int(ceiling_bytes * (1 - headroom))
    may_fit = predicted.device_bytes <= usable_bytes * (1 + DOUBT)
    if not may_fit.any():
        least = int(np.argmin(predicted.device_bytes))
        needed = math.ceil(predicted.device_bytes[least] / (1 - headroom)) + 1
        config = enumeration.columns.config(least)
        advice = "raise --ceiling, " if needed <= group.gpu.memory_bytes else ""
        raise NothingFits(
            f"nothing fits under {format_bytes(ceiling_bytes)}: the smallest configuration of the space "
            f"{space.name!r} needs a ceiling of about {format_bytes(needed)} ({needed} bytes; "
            f"sharding={config.sharding}, micro_batch_size={config.micro_batch_size}); {advice}add GPUs, or "
            "pick a smaller model"
        )
    columns = enumeration.columns.select(may_fit)
    too_large = Rejection(
        "memory",
        f"the forecast peak is beyond the usable {format_bytes(usable_bytes)} by more than {DOUBT:.0%}",
        int(np.count_nonzero(~may_fit)),
    )
    return Candidates(
        columns=columns,
        forecast=predicted.select(may_fit),
        ceiling_bytes=ceiling_bytes,
        usable_bytes=usable_bytes,
        rejected=enumeration.rejected + ((too_large,) if too_large.count else ()),
        total=enumeration.total,
    )
