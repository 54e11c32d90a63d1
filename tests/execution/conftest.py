import pytest

pytest.register_assert_rewrite("execution.watching")
