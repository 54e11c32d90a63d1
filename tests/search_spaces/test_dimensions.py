"""Dimensions and settings: from what a person writes to typed values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.columns import FIELDS
from search_spaces.dimensions import dimension, parse_setting
from trials.contract.config import choices
from trials.contract.message import ContractError


@pytest.mark.parametrize(
    ("given", "values"),
    [
        (4, (4,)),
        ([1, 3, 1], (1, 3)),
        ({"min": 1, "max": 4}, (1, 2, 3, 4)),
        ({"min": 64, "max": 200, "step": 64}, (64, 128, 192)),
        ({"min": 1, "max": 20, "factor": 2}, (1, 2, 4, 8, 16)),
        ({"max": 3}, (1, 2, 3)),
    ],
)
def test_counts_come_as_value_list_or_range(given, values):
    assert dimension("micro_batch_size", given) == values


@pytest.mark.parametrize(
    ("field", "given", "says"),
    [
        ("micro_batch_size", {"min": 4, "max": 2}, "min 4 is above max 2"),
        ("micro_batch_size", {"max": 4, "step": 1, "factor": 2}, "exclude each other"),
        ("micro_batch_size", {"max": 4, "stp": 1}, "did you mean 'step'"),
        ("micro_batch_size", {"max": 4, "factor": 1}, "factor"),
        ("micro_batch_size", {"max": 2**24}, "larger step"),
        ("micro_batch_size", [], "at least one value"),
        ("micro_batch_size", [[1]], "whole number"),
        ("precision", {"min": 1, "max": 2}, "no range"),
        ("precision", ["bf16", "fp23"], "did you mean 'fp32'"),
        ("gradient_accumulation_steps", [1, 2], "pinned to one value"),
    ],
)
def test_a_wrong_dimension_is_named(field, given, says):
    with pytest.raises(ContractError, match=says) as caught:
        dimension(field, given)
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("precision=bf16,fp16", ("precision", ("bf16", "fp16"))),
        ("micro_batch_size=1, 3,7", ("micro_batch_size", (1, 3, 7))),
        ("compile=true,False", ("compile", (True, False))),
        (" sharding = zero2 ", ("sharding", ("zero2",))),
        ("gradient_accumulation_steps=4", ("gradient_accumulation_steps", (4,))),
    ],
)
def test_settings_are_typed_by_their_field(text, parsed):
    field, values = parse_setting(text)
    assert (field, values) == parsed
    assert [type(value) for value in values] == [type(value) for value in parsed[1]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("precision", "field=value"),
        ("precison=bf16", "did you mean 'precision'"),
        ("precision=bf61", "did you mean 'bf16'"),
        ("compile=yes", "true or false"),
        ("micro_batch_size=1,,2", "whole number"),
        ("micro_batch_size=-1", "whole number"),
        ("micro_batch_size=" + "9" * 5000, "whole number"),
        ("micro_batch_size=0", "outside 1 to"),
        ("", "field=value"),
    ],
)
def test_a_wrong_setting_is_named(text, says):
    with pytest.raises(ContractError, match=says):
        parse_setting(text)


@given(st.one_of(st.text(), st.tuples(st.sampled_from(FIELDS), st.text()).map("=".join)))
def test_any_text_is_a_setting_or_a_contract_error(text):
    try:
        field, values = parse_setting(text)
    except ContractError:
        return
    known = choices(field)
    assert all(value in known if known else isinstance(value, int) for value in values)
