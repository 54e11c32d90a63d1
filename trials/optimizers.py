"""The update rules by name, for parameters that may be sharded."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from trials.contract.config import Optimizer, TrainingConfig
from trials.contract.constants import LEARNING_RATE, EngineConstants, engine_constants

Parameters = Iterable[torch.nn.Parameter]


class Lion(torch.optim.Optimizer):
    """The sign of an interpolation between momentum and gradient (Chen et al. 2023, algorithm 2)."""

    def __init__(
        self,
        params: Parameters,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nobody here has a closure
        for group in self.param_groups:
            (beta1, beta2), rate = group["betas"], group["lr"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"]
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.add_(momentum.lerp(gradient, 1 - beta1).sign_(), alpha=-rate)
                momentum.lerp_(gradient, 1 - beta2)


def _adamw_8bit(parameters: Parameters, lr: float) -> torch.optim.Optimizer:
    from torchao.optim import AdamW8bit

    optimizer: torch.optim.Optimizer = AdamW8bit(parameters, lr=lr)
    return optimizer


FUSED: Mapping[Optimizer, Callable[..., torch.optim.Optimizer]] = MappingProxyType(
    {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
)
"""Those of which torch has a fused step."""
OTHERS: Mapping[Optimizer, Callable[..., torch.optim.Optimizer]] = MappingProxyType(
    {"adafactor": torch.optim.Adafactor, "lion": Lion, "adamw_8bit": _adamw_8bit}
)
NEVER_FUSED = ("sgd",)
"""Optimizers whose fused step has no sharding strategy for DTensor."""


def constants_of_sharded(config: TrainingConfig, num_parameters: int) -> EngineConstants:
    """Of an engine whose parameters are DTensors."""
    constants = engine_constants(num_parameters)
    if config.optimizer in NEVER_FUSED:
        return constants.model_copy(update={"fused_optimizer": False})
    return constants


def make_optimizer(name: Optimizer, parameters: Parameters, *, fused: bool) -> torch.optim.Optimizer:
    """The optimizer at the learning rate of every probe."""
    if name in OTHERS:
        return OTHERS[name](parameters, lr=LEARNING_RATE)
    more: dict[str, Any] = {"fused": fused or None}  # None lets torch choose, which False does not
    return FUSED[name](parameters, lr=LEARNING_RATE, **more)
