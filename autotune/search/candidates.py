"""The candidates of a job: every legal configuration that may fit, with its forecast."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BadInput, NothingFits
from autotune.forecast.forecast import Forecast, forecast, usable_host_bytes
from autotune.hardware.inventory import NodeGroup
from autotune.hardware.sizes import format_bytes
from autotune.models.shape import ModelShape
from autotune.search.ceilings import FORECAST_MARGIN, enough_for, in_words, ways_out
from search_spaces.columns import Columns
from search_spaces.constraints import Rejection
from search_spaces.rules import Facts
from search_spaces.space import SearchSpace
from trials.contract.config import TrainingConfig

Indices = NDArray[np.int64]

DOUBT = 0.25
"""A candidate is dropped unprobed only when its forecast peak exceeds what is usable by this share: the
forecast is not that wrong on any row measured so far, and a probe settles what lies closer."""
MAX_REASONS = 3
"""Why a space has nothing legal, in one sentence."""


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
    leanest: tuple[TrainingConfig, int] | None
    """The legal configuration with the smallest forecast peak, and its bytes; None where none is legal."""
    _found: dict[TrainingConfig, int | None] = field(default_factory=dict, repr=False)
    """What `index` was asked for already."""

    def __len__(self) -> int:
        return len(self.columns)

    def config(self, index: int) -> TrainingConfig:
        return self.columns.config(index)

    def index(self, config: TrainingConfig) -> int | None:
        """Where `config` stands, or None where it is no candidate."""
        try:
            return self._found[config]
        except KeyError:
            wanted = Columns.of([config])
            rows = np.arange(len(self))
            for name, array in self.columns.values.items():
                rows = rows[array[rows] == wanted.values[name][0]]
            return self._found.setdefault(config, int(rows[0]) if len(rows) else None)

    def select(self, rows: NDArray[np.bool_]) -> "Candidates":
        """Only those of a mask of shape (n,); what was rejected, and why, stays as it was."""
        return replace(
            self, columns=self.columns.select(rows), forecast=self.forecast.select(rows), _found={}
        )

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
    usable_bytes: int,
) -> Candidates:
    """Enumerate `space`, forecast every legal configuration and keep what may fit, be it nothing."""
    enumeration = space.enumerate(facts)
    legal = enumeration.columns
    predicted = forecast(shape, group, facts.world_size, legal)
    on_host = predicted.fits_host(group)
    may_fit = on_host & (predicted.device_bytes <= usable_bytes * (1 + DOUBT))
    left_out = (
        Rejection("host_memory", too_large_for_host(group), int(np.count_nonzero(~on_host))),
        Rejection(
            "memory",
            f"the forecast peak is beyond the usable {format_bytes(usable_bytes)} by more than {DOUBT:.0%}",
            int(np.count_nonzero(on_host & ~may_fit)),
        ),
    )
    least = predicted.leanest(group) if len(legal) else None
    return Candidates(
        columns=legal.select(may_fit),
        forecast=predicted.select(may_fit),
        ceiling_bytes=ceiling_bytes,
        usable_bytes=usable_bytes,
        rejected=enumeration.rejected + tuple(one for one in left_out if one.count),
        total=enumeration.total,
        leanest=None if least is None else (legal.config(least), int(predicted.device_bytes[least])),
    )


def too_large_for_host(group: NodeGroup) -> str:
    """Why a configuration that offloads is left out, in words."""
    usable = usable_host_bytes(group) or 0
    return f"what it offloads is more than the {format_bytes(usable)} that a node's CPU memory has for it"


def why_none(
    candidates: Candidates, space: str, headroom: float, device_bytes: int, pinned: AbstractSet[str]
) -> BadInput | NothingFits:
    """Why a space has no candidate: nothing in it is legal, or nothing fits; with a ceiling that would do.

    `pinned` are the fields that the user set: where there are reasons that concern them, those are told.
    """
    if candidates.leanest is None:
        most_first = sorted(candidates.rejected, key=lambda rejection: -rejection.count)
        reasons = [r for r in most_first if not pinned.isdisjoint(r.fields)] or most_first
        words = "; ".join(rejection.reason for rejection in reasons[:MAX_REASONS])
        fields = " or ".join(reasons[0].fields)
        return BadInput(
            f"no configuration of the space {space!r} can run here: {words}; allow other values of {fields} "
            "with --set"
        )
    config, peak_bytes = candidates.leanest
    on_host = [rejection.reason for rejection in candidates.rejected if rejection.code == "host_memory"]
    if on_host and peak_bytes <= candidates.usable_bytes:
        return NothingFits(f"nothing fits: {on_host[0]}; allow --set offload=none or less of it")
    needed_bytes = enough_for(peak_bytes, headroom, FORECAST_MARGIN)
    return NothingFits(
        f"nothing fits under {format_bytes(candidates.ceiling_bytes)}: the smallest configuration of the "
        f"space {space!r} (sharding={config.sharding}, micro_batch_size={config.micro_batch_size}) needs a "
        f"ceiling of about {in_words(needed_bytes)}; {ways_out(needed_bytes, device_bytes)}"
    )
