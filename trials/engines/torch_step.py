"""The optimizer step that the engines of plain PyTorch share: accumulate, unscale, clip, update."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from trials.contract.config import TrainingConfig
from trials.contract.constants import LEARNING_RATE, EngineConstants
from trials.data import Batch
from trials.engines import EngineRefusal, StepOutcome
from trials.model import loss_of

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}

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
    ) -> None:
        if config.optimizer not in OPTIMIZERS:
            raise EngineRefusal(f"no engine of PyTorch's has the optimizer {config.optimizer!r}")
        self.vocab_size = vocab_size
        self.num_parameters = num_parameters
        self.constants = constants
        self.model = model
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = OPTIMIZERS[config.optimizer](
            self.parameters,
            lr=LEARNING_RATE,
            fused=constants.fused_optimizer or None,  # None lets torch choose, which False does not
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self._device = device
        self._microbatch = microbatch
        self._autocast = autocast

    def step(self, batches: Sequence[Batch]) -> StepOutcome:
        total = torch.zeros((), device=self._device)
        for index, batch in enumerate(batches):
            with self._microbatch(index == len(batches) - 1):
                with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
                    loss = loss_of(self.model(**batch)) / len(batches)
                torch.autograd.backward(self.scaler.scale(loss))
                total += loss.detach()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.constants.gradient_clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return StepOutcome(total, whole(norm))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full value of a scalar that may be a DTensor."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
