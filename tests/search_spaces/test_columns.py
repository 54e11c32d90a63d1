"""Columns: configurations as arrays, and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.columns import FIELDS, Columns, encode
from trials.contract.config import TrainingConfig, choices
from trials.contract.message import ContractError

configs = st.builds(
    TrainingConfig,
    **{
        field: st.sampled_from(choices(field)) if choices(field) else st.integers(1, 2**24)
        for field in FIELDS
    },
)


@given(st.lists(configs, max_size=8))
def test_configs_survive_the_round_trip(rows):
    columns = Columns.of(rows)
    assert len(columns) == len(rows)
    assert columns.configs() == rows


@given(st.lists(configs, min_size=1, max_size=8), st.data())
def test_selection_by_mask_and_by_indices_agree(rows, data):
    columns = Columns.of(rows)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    expected = [row for row, kept in zip(rows, mask, strict=True) if kept]
    assert columns.select(mask).configs() == expected
    assert columns.select(np.flatnonzero(mask)).configs() == expected


@given(st.lists(configs, min_size=1, max_size=8))
def test_is_in_compares_values_not_codes(rows):
    columns = Columns.of(rows)
    asked = ["zero2", "fsdp"]
    assert columns.is_in("sharding", asked).tolist() == [row.sharding in asked for row in rows]
    assert columns.is_in("compile", [True]).tolist() == [row.compile for row in rows]


def constant_columns(rows: int) -> Columns:
    one = Columns.of([TrainingConfig(sharding="zero2", micro_batch_size=3)])
    return Columns({field: np.broadcast_to(array, rows) for field, array in one.values.items()})


def test_a_constant_column_stays_constant_under_selection():
    columns = constant_columns(1000).select(np.arange(1000) % 2 == 0)
    assert len(columns) == 500
    assert all(array.strides == (0,) for array in columns.values.values())
    assert columns.config(499) == TrainingConfig(sharding="zero2", micro_batch_size=3)
    assert columns.is_in("sharding", ["zero2"]).all()
    assert columns.distinct("micro_batch_size") == (3,)


def test_nothing_can_be_selected_from_constant_columns():
    columns = constant_columns(10).select(np.zeros(10, dtype=np.bool_))
    assert len(columns) == 0
    assert columns.configs() == []


def test_an_empty_table_can_be_selected_from():
    assert len(constant_columns(0).select(np.zeros(0, dtype=np.bool_))) == 0


def test_columns_of_different_lengths_are_refused():
    values = dict(Columns.of([TrainingConfig()]).values)
    values["compile"] = np.array([True, False])
    with pytest.raises(ValueError, match="different lengths"):
        Columns(values)


def test_every_field_is_needed():
    values = dict(Columns.of([TrainingConfig()]).values)
    del values["compile"]
    with pytest.raises(ValueError, match="compile"):
        Columns(values)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("precison", "bf16", "did you mean 'precision'"),
        ("precision", "bf61", "did you mean 'bf16'"),
        ("micro_batch_size", 0, "outside 1 to"),
        ("micro_batch_size", True, "whole number"),
        ("micro_batch_size", 1.0, "whole number"),
        ("compile", 1, "true or false"),
        ("sharding", True, "not a value of it"),
    ],
)
def test_what_a_field_cannot_hold_is_named(field, value, says):
    with pytest.raises(ContractError, match=says):
        encode(field, value)
