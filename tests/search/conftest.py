import pytest
from problems import make_problem

from autotune.search.problem import Problem


@pytest.fixture(scope="session")
def problem() -> Problem:
    return make_problem()
