"""Batches: the same tokens however a global batch is split."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from trials.contract.config import TrainingConfig
from trials.data import TokenBatches

VOCABULARY = 50
LENGTH = 8
counts = st.integers(min_value=1, max_value=4)
seeds = st.integers(min_value=0, max_value=2**32 - 1)
steps = st.integers(min_value=0, max_value=1000)


def batches(
    micro_batch_size: int, accumulation: int = 1, *, replica: int = 0, num_replicas: int = 1, seed: int = 0
) -> TokenBatches:
    config = TrainingConfig(
        micro_batch_size=micro_batch_size, gradient_accumulation_steps=accumulation, sequence_length=LENGTH
    )
    return TokenBatches(
        config,
        vocab_size=VOCABULARY,
        replica=replica,
        num_replicas=num_replicas,
        seed=seed,
        device=torch.device("cpu"),
    )


def sequences(made: TokenBatches, step: int) -> list[torch.Tensor]:
    return [row for batch in made.of_step(step) for row in batch["input_ids"]]


@given(counts, counts, counts, steps, seeds)
def test_a_global_batch_is_the_same_however_it_is_split(
    micro_batch_size: int, accumulation: int, num_replicas: int, step: int, seed: int
) -> None:
    size = micro_batch_size * accumulation * num_replicas
    whole = sequences(batches(size, seed=seed), step)
    parts = [
        batches(micro_batch_size, accumulation, replica=replica, num_replicas=num_replicas, seed=seed)
        for replica in range(num_replicas)
    ]
    dealt = [
        row
        for microbatches in zip(*(part.of_step(step) for part in parts), strict=True)
        for batch in microbatches
        for row in batch["input_ids"]
    ]
    assert torch.equal(torch.stack(dealt), torch.stack(whole))


@given(counts, counts, steps, seeds)
def test_a_microbatch_is_what_a_language_model_trains_on(
    micro_batch_size: int, accumulation: int, step: int, seed: int
) -> None:
    made = batches(micro_batch_size, accumulation, seed=seed).of_step(step)
    assert len(made) == accumulation
    for batch in made:
        tokens = batch["input_ids"]
        assert tokens.shape == (micro_batch_size, LENGTH)
        assert tokens.dtype == torch.int64
        assert 0 <= tokens.min() <= tokens.max() < VOCABULARY
        assert torch.equal(batch["labels"], tokens)


def test_every_sequence_of_a_run_is_another() -> None:
    made = batches(2, 2)
    rows = [tuple(row.tolist()) for step in range(50) for row in sequences(made, step)]
    assert len(set(rows)) == len(rows)


def test_another_seed_gives_other_tokens() -> None:
    first, second = (torch.stack(sequences(batches(4, seed=seed), 0)) for seed in (0, 1))
    assert not torch.equal(first, second)
