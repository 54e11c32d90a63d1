"""`forecast`: memory, step time and MFU of many configurations at once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.forecast.activations import activations
from autotune.forecast.case import Case
from autotune.forecast.compute import model_flops_per_token
from autotune.forecast.constants import CONSTANTS, ForecastConstants
from autotune.forecast.formats import Floats
from autotune.forecast.host import host_bytes
from autotune.forecast.memory import memory, memory_by_phase
from autotune.forecast.speed import step_time
from autotune.hardware.inventory import NodeGroup
from autotune.models.shape import ModelShape
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig
from trials.contract.messages import StepPhase

Bytes = NDArray[np.int64]

CHUNK_ROWS = 16_384
"""Rows forecast at a time: columns that stay in a core's cache are several times as fast as those that do
not."""


@dataclass(frozen=True, eq=False)
class Forecast:
    """One element per configuration, arrays of shape (n,); those without variation may be read-only."""

    parts: Mapping[str, Bytes]
    """Weights, gradients, master, optimizer, activations, transient and fixed bytes of the worst rank at
    its peak; they add up to `peak_bytes`."""
    peak_bytes: Bytes
    """Tensors, and what lies outside them."""
    reserved_bytes: Bytes
    """What the allocator holds from the device; `fixed` comes on top of it."""
    step_s: Floats
    """Seconds of an optimizer step with its accumulation."""
    tokens_per_second: Floats
    """Of the whole job."""
    mfu: Floats | None
    """Model FLOPs over the dense peak of the row's precision; None on CPU."""
    host_bytes: Bytes
    """CPU memory of one node that offloading takes; 0 where nothing is offloaded."""

    def __len__(self) -> int:
        return len(self.peak_bytes)

    def select(self, rows: NDArray[np.bool_]) -> "Forecast":
        """The rows of a mask of shape (n,)."""
        return Forecast(
            parts={name: part[rows] for name, part in self.parts.items()},
            peak_bytes=self.peak_bytes[rows],
            reserved_bytes=self.reserved_bytes[rows],
            step_s=self.step_s[rows],
            tokens_per_second=self.tokens_per_second[rows],
            mfu=None if self.mfu is None else self.mfu[rows],
            host_bytes=self.host_bytes[rows],
        )

    @property
    def device_bytes(self) -> Bytes:
        """What the ceiling counts, and a probe measures: the allocator's holdings and what lies outside."""
        return self.reserved_bytes + self.parts["fixed"]

    def fits_host(self, group: NodeGroup) -> NDArray[np.bool_]:
        """Mask of shape (n,): whether what is offloaded has room on the nodes of `group`, as far as known."""
        usable = usable_host_bytes(group)
        return np.ones(len(self), dtype=np.bool_) if usable is None else self.host_bytes <= usable

    def leanest(self, group: NodeGroup) -> int:
        """The row with the smallest `device_bytes`, of those that fit the nodes' CPU memory where any do."""
        on_host = self.fits_host(group)
        return int(np.argmin(np.where(on_host | ~on_host.any(), self.device_bytes, np.iinfo(np.int64).max)))


def usable_host_bytes(group: NodeGroup) -> int | None:
    """CPU memory of a node that offloading may take; None where it is not known how much there is."""
    if group.host_memory_bytes is None:
        return None
    return int(group.host_memory_bytes * CONSTANTS[group.gpu.kind].host_usable_share)


def forecast(
    shape: ModelShape,
    group: NodeGroup,
    world_size: int,
    columns: Columns,
    constants: ForecastConstants | None = None,
) -> Forecast:
    """Forecast every row of `columns`, which must be legal for a world of `world_size` ranks of `group`.

    `constants` are those of the device kind unless calibrated ones are given. Raises BadInput where the
    device states no rate for a precision that occurs.
    """
    constants = constants or CONSTANTS[group.gpu.kind]
    if len(columns) <= CHUNK_ROWS:
        return _forecast(Case(shape, group, world_size, columns, constants))
    starts = range(0, len(columns), CHUNK_ROWS)
    return _joined(
        [
            _forecast(Case(shape, group, world_size, columns.between(start, start + CHUNK_ROWS), constants))
            for start in starts
        ]
    )


def _joined(chunks: Sequence[Forecast]) -> Forecast:
    def join(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate(list(arrays))

    mfu = [chunk.mfu for chunk in chunks if chunk.mfu is not None]
    return Forecast(
        parts={name: join(chunk.parts[name] for chunk in chunks) for name in chunks[0].parts},
        peak_bytes=join(chunk.peak_bytes for chunk in chunks),
        reserved_bytes=join(chunk.reserved_bytes for chunk in chunks),
        step_s=join(chunk.step_s for chunk in chunks),
        tokens_per_second=join(chunk.tokens_per_second for chunk in chunks),
        mfu=join(mfu) if mfu else None,
        host_bytes=join(chunk.host_bytes for chunk in chunks),
    )


def _forecast(case: Case) -> Forecast:
    rows = len(case.columns)
    acts = activations(case)
    held = memory(case, acts)
    step_s = step_time(case, acts).total
    tokens = case.micro_batch * case.accumulation * case.replicas * case.sequence
    tokens_per_second = tokens / step_s
    mfu = model_flops_per_token(case) * tokens_per_second / (case.world_size * case.peak_flops)

    def whole(array: Floats) -> Bytes:
        return np.broadcast_to(array.astype(np.int64), rows)

    return Forecast(
        parts={name: whole(part) for name, part in held.parts.items()},
        peak_bytes=whole(held.peak),
        reserved_bytes=whole(held.reserved),
        step_s=np.broadcast_to(step_s, rows),
        tokens_per_second=np.broadcast_to(tokens_per_second, rows),
        mfu=np.broadcast_to(mfu, rows) if case.on_cuda else None,
        host_bytes=whole(host_bytes(case, acts)),
    )


@dataclass(frozen=True)
class Breakdown:
    """Where the memory and the time of one configuration go."""

    phases: Mapping[StepPhase, Mapping[str, int]]
    """Bytes by part at the heaviest moment of each phase, on the worst rank."""
    seconds: Mapping[str, float]
    """Of an optimizer step, by what they are spent on."""


def break_down(shape: ModelShape, group: NodeGroup, world_size: int, config: TrainingConfig) -> Breakdown:
    """The parts of a forecast of one configuration; raises BadInput as `forecast` does."""
    case = Case(shape, group, world_size, Columns.of([config]), CONSTANTS[group.gpu.kind])
    acts = activations(case)
    spent = step_time(case, acts)._asdict()
    return Breakdown(
        phases=memory_by_phase(case, acts),
        seconds={name: float(np.ravel(seconds)[0]) for name, seconds in spent.items()},
    )
