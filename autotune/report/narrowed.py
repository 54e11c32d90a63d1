"""A space as it is for one model on one inventory, as JSON."""

from typing import Any

from autotune.report.plan import Rejected
from trials.contract.message import Message


class LeftOut(Message):
    """A value of a dimension that no legal configuration has."""

    field: str
    value: bool | int | str
    reason: str


class NarrowedSpace(Message):
    """What can be probed."""

    space: str
    model: str
    gpus: str
    """Such as `8 × H100-80GB`."""
    legal: int
    """Configurations, of `total` that the dimensions span."""
    total: int
    dimensions: dict[str, tuple[bool | int | str, ...]]
    """Field → its values that some legal configuration has."""
    left_out: tuple[LeftOut, ...]
    rejected: tuple[Rejected, ...]
    """Why the configurations that are not legal are not, each counted once."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")
