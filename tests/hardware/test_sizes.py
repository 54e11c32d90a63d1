"""Sizes as people write them, to the byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import BadInput
from autotune.hardware.sizes import MAX_BYTES, UNIT_BYTES, format_bytes, parse_share, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("22GiB", 22 * 2**30),
        ("80GB", 80 * 10**9),
        ("1500MiB", 1500 * 2**20),
        (" 1.5 gib ", 3 * 2**29),
        ("2TB", 2 * 10**12),
        ("17179869184", 2**34),
        ("512b", 512),
        ("0.1GB", 10**8),  # 0.1 × 10⁹ is no more and no less
        ("90%", 900),
        ("100%", 1000),
        ("33.35 %", 333),
    ],
)
def test_sizes(text, size):
    assert parse_size(text, total_bytes=1000) == size


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "write it as 22GiB"),
        ("GiB", "write it as 22GiB"),
        ("-1GiB", "write it as 22GiB"),
        ("nan", "write it as 22GiB"),
        ("1e3GiB", "write it as 22GiB"),
        ("22 GiB GiB", "write it as 22GiB"),
        ("٣GiB", "write it as 22GiB"),
        ("22G", "'G' is not a unit"),
        ("22parsecs", "'parsecs' is not a unit"),
        ("0GiB", "not a size that a device can have"),
        ("0.1b", "not a size that a device can have"),
        ("999999999TiB", "not a size that a device can have"),
        ("0%", "between 0 and 100"),
        ("101%", "between 0 and 100"),
    ],
)
def test_what_is_no_size(text, reason):
    with pytest.raises(BadInput, match=reason):
        parse_size(text, total_bytes=1000)


def test_a_share_needs_a_whole():
    with pytest.raises(BadInput, match="unknown whole"):
        parse_size("90%")


@given(st.integers(1, 10**9), st.sampled_from(sorted(UNIT_BYTES)))
def test_whole_numbers_are_exact(number, unit):
    if number * UNIT_BYTES[unit] <= MAX_BYTES:
        assert parse_size(f"{number}{unit}") == number * UNIT_BYTES[unit]


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_refused(text):
    try:
        size = parse_size(text, total_bytes=2**34)
    except BadInput:
        return
    assert 0 < size <= MAX_BYTES


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), ("0", 0.0), (" 99.5 % ", 0.995)])
def test_shares(text, share):
    assert parse_share(text, "--headroom") == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "100%", "1", "-5%", "nan", "nan%", "inf", "five"])
def test_what_is_no_share(text):
    with pytest.raises(BadInput, match=r"--headroom .* is not a share"):
        parse_share(text, "--headroom")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 MiB"), (2**29, "512 MiB"), (2**30, "1.00 GiB"), (1 << 41, "2,048.00 GiB")]
)
def test_bytes_for_people(size, text):
    assert format_bytes(size) == text
