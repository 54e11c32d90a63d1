"""One warm executor for all tests that probe."""

from collections.abc import Iterator
from typing import Any

import pytest
from agreement import Reference, Run
from probes import probe

from autotune.execution.executor import Layout
from autotune.execution.local import LocalExecutor
from trials.contract.messages import ModelSpec, ProbeResult
from trials.contract.outcome import Outcome


@pytest.fixture(scope="session")
def executor() -> Iterator[LocalExecutor]:
    with LocalExecutor(Layout("cpu", num_nodes=1, ranks_per_node=2, num_slots=1)) as executor:
        yield executor


@pytest.fixture(scope="session")
def run(executor: LocalExecutor) -> Run:
    """Run a probe to its end."""
    return lambda request: executor.submit(request).result()


@pytest.fixture(scope="session")
def reference(run: Run) -> Reference:
    """One fp32 process that takes the whole global batch of eight sequences as its microbatch."""
    known: dict[tuple[Any, ...], ProbeResult] = {}

    def measure(model: ModelSpec, **training: Any) -> ProbeResult:
        """`training`: what is trained, where it is not all weights by AdamW."""
        key = (model.digest, *sorted(training.items()))
        if key not in known:
            known[key] = run(probe(model, {"micro_batch_size": 8, **training}, world_size=1))
            assert known[key].outcome == Outcome.MEASURED, known[key]
        return known[key]

    return measure
