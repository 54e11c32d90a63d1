"""A model that leaves a file beside this one, named by the rank and the process that train it."""

import os
from pathlib import Path

from tiny import Decoder
from torch import Tensor


class Announcing(Decoder):
    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        rank = os.environ.get("RANK", "0")
        Path(__file__).with_name(f"trains-{rank}-{os.getpid()}").touch()
        return super().forward(input_ids, labels)


def build() -> Announcing:
    return Announcing()
