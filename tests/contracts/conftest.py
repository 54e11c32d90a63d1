"""Contract suites are modules that test modules inherit from."""

import pytest

pytest.register_assert_rewrite("contracts.executor", "execution.watching")
