"""What can become of a probe, and what each outcome means for the search (design, section 4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Outcome(StrEnum):
    MEASURED = "measured"
    OUTPACED = "outpaced"
    OUT_OF_MEMORY = "out_of_memory"
    NON_FINITE = "non_finite"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"
    INVALID = "invalid"


class Phase(StrEnum):
    """Where in its life a probe was when it ended, in order."""

    START = "start"
    """Processes, process group, device."""
    BUILD = "build"
    """Model, sharding, optimizer."""
    WARM_UP = "warm_up"
    """Steps until the optimizer states exist and the step time settles."""
    MEASURE = "measure"
    DONE = "done"


@dataclass(frozen=True)
class Verdict:
    """How the search treats an outcome."""

    completes: bool
    """Told to the study as a finished trial (else as a failed one)."""
    has_speed: bool
    """Its tokens/s is a figure of this configuration (else it is told as 0)."""
    counts: bool
    """Spends one of the budget's trials."""
    max_attempts: int | None
    """Asked again until it ended so this many times; None: as often as it takes."""


VERDICTS: Mapping[Outcome, Verdict] = MappingProxyType(
    {
        Outcome.MEASURED: Verdict(completes=True, has_speed=True, counts=True, max_attempts=1),
        Outcome.OUTPACED: Verdict(completes=True, has_speed=True, counts=True, max_attempts=1),
        Outcome.OUT_OF_MEMORY: Verdict(completes=True, has_speed=False, counts=True, max_attempts=1),
        Outcome.NON_FINITE: Verdict(completes=True, has_speed=False, counts=True, max_attempts=1),
        Outcome.TIMED_OUT: Verdict(completes=True, has_speed=False, counts=True, max_attempts=1),
        Outcome.CRASHED: Verdict(completes=False, has_speed=False, counts=False, max_attempts=3),
        Outcome.INTERRUPTED: Verdict(completes=False, has_speed=False, counts=False, max_attempts=None),
        Outcome.INVALID: Verdict(completes=False, has_speed=False, counts=False, max_attempts=1),
    }
)
