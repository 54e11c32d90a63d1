"""YAML that people write, and YAML that nobody should."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.documents import MAX_BYTES, parse_yaml, read_yaml
from trials.contract.message import ContractError

LAUGHS = b"a: &a [x, x]\nb: &b [*a, *a]\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"name: a\nname: b\n", "'name' stands there twice in line 2"),
        (b"dimensions: {precision: bf16, precision: fp16}", "'precision' stands there twice"),
        (LAUGHS, "aliases are not allowed"),
        (b"- a\n- b\n", "a mapping"),
        (b"", "a mapping"),
        (b"a: [1, 2", "not readable as YAML"),
        (b"? [a, b]\n: c", "a key must be a name"),
        (b"a: !!python/object/apply:os.getcwd []", "not readable as YAML"),
        (b"a: !!timestamp 2020-01-01", "not readable as YAML"),
        (b"a: !!binary aGVsbG8=", "not readable as YAML"),
        (b"a: " + b"[" * 5000, "nested too deeply"),
        (b"\xff\xfe\xff", "plain values"),
    ],
)
def test_what_is_wrong_is_said(text, says):
    with pytest.raises(ContractError, match=says):
        parse_yaml(text)


def test_a_date_is_a_word():
    assert parse_yaml("a: 2020-01-01\nb: [2024-99-99, 1, 1.5, true, null]") == {
        "a": "2020-01-01",
        "b": ["2024-99-99", 1, 1.5, True, None],
    }


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_a_mapping_or_a_contract_error(text):
    with contextlib.suppress(ContractError):
        assert isinstance(parse_yaml(text), dict)


def test_a_large_file_is_refused(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ContractError, match="64 KiB"):
        read_yaml(path)


def test_a_folder_cannot_be_read(tmp_path):
    with pytest.raises(ContractError, match="cannot be read"):
        read_yaml(tmp_path)
