"""Exceptions as the API names them."""

import re
from collections.abc import Iterator

import pytest

from autotune.errors import AutotuneError
from autotune.problems import PREFIX, STATUSES, TYPES, status_of, type_of


def leaves(kind: type[AutotuneError]) -> Iterator[type[AutotuneError]]:
    below = kind.__subclasses__()
    if not below:
        yield kind
    for one in below:
        yield from leaves(one)


LEAVES = [kind for kind in leaves(AutotuneError) if kind.__module__ == AutotuneError.__module__]


def test_every_exception_that_is_raised_has_a_name_and_a_status():
    assert set(TYPES.values()) == set(STATUSES) >= set(LEAVES)


@pytest.mark.parametrize("kind", TYPES.values())
def test_there_and_back(kind):
    words = re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()
    assert type_of(kind("why")) == PREFIX + words
    assert TYPES[PREFIX + words] is kind
    assert 400 <= status_of(kind("why")) < 600
