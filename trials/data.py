"""Deterministic token batches: the same global batch however it is split."""

from collections.abc import Mapping, Sequence

import torch

from trials.contract.config import TrainingConfig

Batch = Mapping[str, torch.Tensor]


class TokenBatches:
    """Random tokens in which sequence number g is always the same.

    A global batch of step s is sequences s·G to (s+1)·G, dealt out by microbatch and then by replica,
    so one process with the whole batch sees what several ranks see together.
    """

    def __init__(
        self,
        config: TrainingConfig,
        *,
        vocab_size: int,
        replica: int,
        num_replicas: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._config = config
        self._vocab_size = vocab_size
        self._replica = replica
        self._num_replicas = num_replicas
        self._seed = seed
        self._device = device

    def of_step(self, step: int) -> Sequence[Batch]:
        """Make this replica's microbatches of a step: (micro-batch, length) tensors on the device."""
        c = self._config
        return [
            self._microbatch(step * c.gradient_accumulation_steps + i)
            for i in range(c.gradient_accumulation_steps)
        ]

    def _microbatch(self, index: int) -> Batch:
        size = self._config.micro_batch_size
        first = (index * self._num_replicas + self._replica) * size
        tokens = torch.stack([self._sequence(first + i) for i in range(size)]).to(self._device)
        return {"input_ids": tokens, "labels": tokens}

    def _sequence(self, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
        return torch.randint(self._vocab_size, (self._config.sequence_length,), generator=generator)
