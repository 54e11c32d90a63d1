"""The engines that can train a model, one module each behind one Protocol."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from trials.contract.capabilities import ENGINE_OF_SHARDING
from trials.contract.config import TrainingConfig
from trials.contract.constants import EngineConstants
from trials.contract.messages import DeviceKind, ModelSpec
from trials.data import Batch


class EngineRefusal(Exception):
    """The engine cannot run this configuration; the message says why."""


@dataclass(frozen=True)
class Setting:
    """What an engine is built from, on one rank of an initialised process group."""

    model: ModelSpec
    config: TrainingConfig
    device_kind: DeviceKind
    device: torch.device
    world_size: int
    seed: int
    num_nodes: int = 1
    """Over which the ranks are spread in equal parts."""
    num_layers: int | None = None
    """Build only so many of the layers, from which a trace extrapolates; None: all."""


@dataclass(frozen=True)
class StepOutcome:
    """One optimizer step on one rank."""

    loss: torch.Tensor
    """Mean over this rank's tokens; a scalar on the device."""
    gradient_norm: torch.Tensor | float
    """Global norm before clipping."""


class Engine(Protocol):
    vocab_size: int
    num_parameters: int
    constants: EngineConstants

    def step(self, batches: Sequence[Batch]) -> StepOutcome:
        """Forward and backward of each microbatch, one clipped optimizer step, gradients freed."""


EngineBuilder = Callable[[Setting], Engine]


def build_engine(setting: Setting) -> Engine:
    """Build the engine that `setting.config.sharding` belongs to; only its own libraries are imported."""
    config = setting.config
    name = "pipeline" if config.pipeline_parallel_size > 1 else ENGINE_OF_SHARDING[config.sharding]
    module = importlib.import_module(f"trials.engines.{name}")
    builder: EngineBuilder = module.build
    return builder(setting)
