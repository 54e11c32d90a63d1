"""One warm executor for all tests that probe."""

from collections.abc import Callable, Iterator

import pytest

from autotune.execution.executor import Layout
from autotune.execution.local import LocalExecutor
from trials.contract.messages import ProbeRequest, ProbeResult

Run = Callable[[ProbeRequest], ProbeResult]


@pytest.fixture(scope="session")
def executor() -> Iterator[LocalExecutor]:
    with LocalExecutor(Layout("cpu", num_nodes=1, ranks_per_node=2, num_slots=1)) as executor:
        yield executor


@pytest.fixture(scope="session")
def run(executor: LocalExecutor) -> Run:
    """Run a probe to its end."""
    return lambda request: executor.submit(request).result()
