"""Which pieces of a sequence each rank has."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trials.context_parallel import in_order, own_pieces


@given(st.integers(1, 8), st.integers(1, 5), st.sampled_from([1, 2]))
def test_what_the_ranks_have_is_the_sequence(ranks: int, length: int, dim: int) -> None:
    whole = torch.arange(2 * 3 * 2 * ranks * length).reshape(2, *((3,) * (dim - 1)), -1)
    parts = [own_pieces(whole, dim, ranks, rank) for rank in range(ranks)]
    assert torch.equal(in_order(parts, dim), whole)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_every_rank_attends_to_as_many_keys(ranks: int) -> None:
    """A query attends to those up to its own position."""
    positions = torch.arange(1, 2 * ranks * 5 + 1)
    keys = [int(own_pieces(positions, 0, ranks, rank).sum()) for rank in range(ranks)]
    assert len(set(keys)) == 1
