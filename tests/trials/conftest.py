"""One warm executor for all tests that probe."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from agreement import Reference, Run
from probes import probe

from autotune.execution.executor import Layout
from autotune.execution.local import LocalExecutor
from autotune.execution.supervisor import Supervisor
from trials.contract.merge import merge
from trials.contract.messages import ModelSpec, NodeShare, ProbeRequest, ProbeResult
from trials.contract.outcome import Outcome
from trials.contract.rendezvous import free_port


@pytest.fixture(scope="session")
def executor() -> Iterator[LocalExecutor]:
    with LocalExecutor(Layout("cpu", num_nodes=1, ranks_per_node=2, num_slots=1)) as executor:
        yield executor


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[tuple[Supervisor, Supervisor]]:
    """Which here are two supervisors of one machine."""
    supervisors = Supervisor("cpu"), Supervisor("cpu")
    try:
        yield supervisors
    finally:
        for supervisor in supervisors:
            supervisor.close()


@pytest.fixture(scope="session")
def run(executor: LocalExecutor, request: pytest.FixtureRequest) -> Run:
    """Run a probe to its end, on the nodes that it asks for."""

    def run_on_nodes(probe: ProbeRequest) -> ProbeResult:
        if probe.num_nodes == 1:
            return executor.submit(probe).result()
        supervisors = request.getfixturevalue("two_nodes")
        port = free_port()
        shares = [NodeShare(request=probe, node_rank=node, rendezvous_port=port) for node in (0, 1)]
        with ThreadPoolExecutor(2) as pool:
            of_nodes = pool.map(lambda pair: pair[0].run(pair[1]), zip(supervisors, shares, strict=True))
            reports = [report for of_node in of_nodes for report in of_node]
        return merge(probe, reports, 1.0)

    return run_on_nodes


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
