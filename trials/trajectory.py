"""`Trajectory`: every level that the bytes alive pass through in a step, by layer and moment."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trials.engines.torch_step import TorchStep
from trials.model import find_layers
from trials.storages import StorageTracker


@dataclass(frozen=True)
class Level:
    phase: str
    """`in N` and `after N` in the forward of layer N and from its end on; else as `trials.trace` names it."""
    bytes: int
    """Alive."""
    gradients: int
    """Of these, finished gradients of weights."""


class Trajectory(StorageTracker):
    """A tracker that remembers each level, of which a model has as many at every number of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[Level] = []
        self._gradients = 0
        self._next: str | None = None

    def begin(self) -> None:
        """Forget the levels, and gradients that the optimizer has freed."""
        self.levels = []
        self._gradients = 0

    def follow_layers(self, engine: TorchStep) -> None:
        """Enter a phase with each layer's forward, and one when the caller has dropped that layer's input."""
        for index, layer in enumerate(find_layers(engine.model)):
            layer.register_forward_pre_hook(lambda _module, _args, phase=f"in {index}": self.enter(phase))
            layer.register_forward_hook(
                lambda _module, _args, _output, phase=f"after {index}": self._enter_at_next_operator(phase)
            )
        for parameter in engine.parameters:
            parameter.register_post_accumulate_grad_hook(self._add_gradient)

    def enter(self, phase: str) -> None:
        self._next = None
        super().enter(phase)

    def _enter_at_next_operator(self, phase: str) -> None:
        self._next = phase

    def _add_gradient(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        self._gradients += parameter.grad.untyped_storage().nbytes()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if self._next is not None:
            self.enter(self._next)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _look(self) -> None:
        super()._look()
        self.levels.append(Level(self._phase, self.bytes, self._gradients))


def without_attention_dropout(model: nn.Module) -> None:
    """Fused attention drops out without a trace on a GPU; on a CPU it would write all scores out instead."""
    for module in _attentions(model):
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _attentions(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if "attention" in type(module).__name__.lower():
            yield from module.modules()
