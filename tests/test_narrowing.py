"""A space as it is for one model on one inventory."""

import pytest

from autotune.errors import BadInput
from autotune.narrowing import narrow
from search_spaces.space import SearchSpace


def test_values_that_cannot_be_probed_are_left_out_with_their_reason():
    found = narrow("fsdp", "llama-3.1-8b", "T4:2")
    assert found.dimensions["precision"] == ("fp16",)
    reasons = {(one.field, one.value): one.reason for one in found.left_out}
    assert reasons["precision", "bf16"] == "this GPU has no bf16 arithmetic"
    assert reasons["precision", "fp8"] == "this GPU has no fp8 matmuls"
    assert 0 < found.legal < found.total


def test_what_is_kept_and_left_out_is_the_whole_space():
    for name in ("fsdp", "zero", "three_d", "lora"):
        found, space = narrow(name, "llama-3.2-1b", "H100:8"), SearchSpace.load(name)
        for field, values in found.dimensions.items():
            gone = [one.value for one in found.left_out if one.field == field]
            assert sorted(map(str, (*values, *gone))) == sorted(map(str, space.dimensions[field]))
        assert found.legal + sum(one.count for one in found.rejected) == found.total


def test_the_reason_of_a_parallel_size_is_its_own():
    """Not that other sizes together with it do not divide the world."""
    found = narrow("three_d", "llama-3.2-1b", "H100:8")
    of_tensor = {one.reason for one in found.left_out if one.field == "tensor_parallel_size"}
    assert of_tensor == {
        "this model ties its head to its embedding, which tensor and pipeline parallelism keep apart"
    }


def test_a_space_for_another_world_is_refused():
    with pytest.raises(BadInput, match="no space and no file"):
        narrow("nosuch", "llama-3.2-1b", "H100:8")
