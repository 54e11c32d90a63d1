"""Models that fail on rank 1: `DEATH_in_PHASE`, for every death and every phase a model is in."""

import ctypes
import os
from collections.abc import Callable

from tiny import Decoder
from torch import Tensor

FAILS_ON = "1"


def raises() -> None:
    raise RuntimeError("as it was told to")


def aborts() -> None:
    os.abort()


def exits() -> None:
    os._exit(7)


def segfaults() -> None:
    ctypes.string_at(0)


class Failing(Decoder):
    """Fails in the forward of a step, counted from 1 (steps have one microbatch)."""

    def __init__(self, die: Callable[[], None], step: int) -> None:
        super().__init__()
        self._die = die
        self._steps_left = step

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        self._steps_left -= 1
        if self._steps_left == 0:
            _on_one_rank(self._die)
        return super().forward(input_ids, labels)


def _on_one_rank(die: Callable[[], None]) -> None:
    if os.environ["RANK"] == FAILS_ON:
        die()


def _in_build(die: Callable[[], None]) -> Callable[[], Decoder]:
    def build() -> Decoder:
        _on_one_rank(die)
        return Decoder()

    return build


def _in_step(die: Callable[[], None], step: int) -> Callable[[], Decoder]:
    return lambda: Failing(die, step)


for _die in (raises, aborts, exits, segfaults):
    globals()[f"{_die.__name__}_in_build"] = _in_build(_die)
    globals()[f"{_die.__name__}_in_warm_up"] = _in_step(_die, 1)
    globals()[f"{_die.__name__}_in_measure"] = _in_step(_die, 2)
