"""Models whose third step's numbers are none that training could go on from."""

import math
from typing import Any

import torch
from tiny import Decoder
from torch import Tensor

STEP = 3


class NotANumberGradient(torch.autograd.Function):
    """The value itself, and a gradient that is not a number."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient * math.nan


class Failing(Decoder):
    """Steps have one microbatch, so a forward is a step."""

    steps_left = STEP

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        loss = super().forward(input_ids, labels)
        self.steps_left -= 1
        return self.spoil(loss) if self.steps_left == 0 else loss


class InfiniteLoss(Failing):
    def spoil(self, loss: Tensor) -> Tensor:
        return loss * math.inf


class NotANumberLoss(Failing):
    def spoil(self, loss: Tensor) -> Tensor:
        return loss * math.nan


class NotANumberGradientNorm(Failing):
    def spoil(self, loss: Tensor) -> Tensor:
        return NotANumberGradient.apply(loss)


class AlwaysNotANumberGradientNorm(NotANumberGradientNorm):
    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        self.steps_left = 1
        return super().forward(input_ids, labels)
