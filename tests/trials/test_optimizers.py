"""What optimizers keep of each parameter, beside what the forecast counts; and Lion by hand."""

from typing import get_args

import pytest
import torch
from torch import nn

from autotune.forecast.formats import OPTIMIZERS
from autotune.forecast.phases import UNFUSED
from trials.contract.config import Optimizer
from trials.optimizers import OTHERS, Lion, make_optimizer

SIDE = 512
"""Of a square matrix: large enough that what is kept of each row and column is small."""


@pytest.mark.timeout(120)  # torchao's is compiled
@pytest.mark.parametrize("name", get_args(Optimizer))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_take_the_bytes_that_are_forecast(name: Optimizer, dtype: torch.dtype) -> None:
    matrix = nn.Parameter(torch.randn(SIDE, SIDE, dtype=dtype))
    optimizer = make_optimizer(name, [matrix], fused=name != "sgd")
    matrix.grad = torch.randn(SIDE, SIDE, dtype=dtype)
    before = matrix.detach().clone()
    optimizer.step()
    assert not torch.equal(before, matrix)
    kept = sum(_bytes(value) for value in optimizer.state[matrix].values()) / matrix.numel()
    expected = OPTIMIZERS[name].moments * dtype.itemsize + OPTIMIZERS[name].other_bytes
    assert kept == pytest.approx(expected, abs=0.02)


def _bytes(value: object) -> int:
    """Of a tensor, or of one that wraps others; step counts are a few bytes."""
    if not isinstance(value, torch.Tensor):
        return 0
    if hasattr(value, "__tensor_flatten__"):
        return sum(_bytes(getattr(value, name)) for name in value.__tensor_flatten__()[0])
    return value.nbytes


def test_the_forecast_knows_which_steps_are_not_fused() -> None:
    assert set(UNFUSED) == set(OTHERS)


def test_lion_moves_every_weight_by_the_rate() -> None:
    """Algorithm 2 of the paper, by hand: two steps with gradients of opposite signs."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = Lion([weight], lr=0.1)
    weight.grad = torch.tensor([3.0, -0.5])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.9, -1.9]))
    weight.grad = torch.tensor([-0.01, 0.5])  # outweighed by the momentum, and not
    optimizer.step()
    momentum = 0.01 * torch.tensor([3.0, -0.5])
    direction = (0.9 * momentum + 0.1 * weight.grad).sign()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.9, -1.9]) - 0.1 * direction)
