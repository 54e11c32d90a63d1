"""What an answer says that nobody measured as such."""

import pytest

from autotune.report.recommend import split_peak

PARTS = {"weights": 100, "gradients": 100, "optimizer": 200, "activations": 300, "transient": 50, "fixed": 50}


def test_states_keep_their_size_where_a_peak_is_not_as_forecast() -> None:
    split = split_peak(1200, PARTS)
    assert split == {
        **PARTS,
        "activations": 600,
        "transient": 100,
        "fixed": 100,
    }


@pytest.mark.parametrize("peak", [0, 1, 399, 400, 401, 799, 12345])
@pytest.mark.parametrize("parts", [PARTS, {"weights": 7}, {"weights": 3, "activations": 0}])
def test_parts_add_up_to_any_peak(peak: int, parts: dict[str, int]) -> None:
    split = split_peak(peak, parts)
    assert sum(split.values()) == peak
    assert split.keys() == parts.keys()
