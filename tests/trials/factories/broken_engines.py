"""Faults that an engine could have: each factory puts one into its rank, and returns a sound model."""

from collections.abc import Callable
from typing import Any

import torch
from tiny import Decoder
from torch import nn


def not_divided_by_accumulation() -> Decoder:
    backward = torch.autograd.backward

    def twice(loss: torch.Tensor, *arguments: Any, **options: Any) -> None:
        backward(loss * 2, *arguments, **options)

    torch.autograd.backward = twice
    return Decoder()


def zero_not_divided_by_accumulation() -> Decoder:
    import deepspeed

    backward = deepspeed.DeepSpeedEngine.backward
    deepspeed.DeepSpeedEngine.backward = lambda self, loss: backward(self, loss * 2)
    return Decoder()


def layers_skipped() -> Decoder:
    model = Decoder()
    for layer in model.layers:
        _replace_forward(layer, lambda forward, x: x + 0 * forward(x))
    return model


def gradients_not_synchronised() -> Decoder:
    import trials.engines.native as native

    native._NoSyncUntilLast.__call__ = lambda self, is_last: self._model.no_sync()
    return Decoder()


def zero_gradients_not_synchronised() -> Decoder:
    import deepspeed.runtime.zero.stage_1_and_2 as stages

    stages.DeepSpeedZeroOptimizer.average_tensor = lambda *arguments: None
    return Decoder()


def not_clipped() -> Decoder:
    import trials.engines.torch_step as torch_step

    torch_step.clip_gradients = lambda parameters, most: nn.utils.get_total_norm([p.grad for p in parameters])
    return Decoder()


def no_optimizer_step() -> Decoder:
    torch.optim.AdamW.step = lambda self: None
    return Decoder()


def learning_rate_doubled() -> Decoder:
    import trials.optimizers as optimizers

    optimizers.LEARNING_RATE *= 2
    return Decoder()


def _replace_forward(layer: nn.Module, replacement: Callable[..., torch.Tensor]) -> None:
    forward = layer.forward
    layer.forward = lambda x: replacement(forward, x)
