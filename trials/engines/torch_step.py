"""The optimizer step that the engines of plain PyTorch share: accumulate, unscale, clip, update."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from trials.contract.config import TrainingConfig
from trials.contract.constants import EngineConstants
from trials.data import Batch
from trials.engines import StepOutcome
from trials.gradients import clip_gradients
from trials.model import loss_of
from trials.optimizers import make_optimizer
from trials.split import Split

MicrobatchContext = Callable[[bool], AbstractContextManager[object]]
"""Given whether this is the step's last microbatch, the context its forward and backward run in."""


class TorchStep:
    """An Engine over a model that PyTorch itself trains."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        constants: EngineConstants,
        *,
        vocab_size: int,
        num_parameters: int,
        device: torch.device,
        microbatch: MicrobatchContext,
        autocast: torch.dtype | None,
        split: Split,
    ) -> None:
        self.vocab_size = vocab_size
        self.num_parameters = num_parameters
        self.constants = constants
        self.model = model
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(config.optimizer, self.parameters, fused=constants.fused_optimizer)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self._device = device
        self._microbatch = microbatch
        self._autocast = autocast
        self._split = split

    def step(self, batches: Sequence[Batch]) -> StepOutcome:
        total = torch.zeros((), device=self._device)
        for index, batch in enumerate(batches):
            with self._microbatch(index == len(batches) - 1), self._split.loss():
                with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
                    loss = loss_of(self.model(**self._split.batch(batch))) / len(batches)
                torch.autograd.backward(self.scaler.scale(loss))
                total += whole(loss.detach())
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.parameters, self.constants.gradient_clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return StepOutcome(total, norm)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full value of a scalar that may be a DTensor."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
