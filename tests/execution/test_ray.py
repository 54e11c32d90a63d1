"""Probes on a real Ray cluster of two nodes, and on the local one of a driver that is killed."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import ray
from execution.drivers import driver
from execution.watching import (
    PATIENCE_S,
    Tree,
    alive,
    below,
    endless,
    eventually,
    names_of,
    that_name,
    training,
    tree_of,
)
from probes import FACTORIES, factory_model, probe

from autotune.errors import ExecutionUnavailable, NotHereYet
from autotune.execution.executor import Executor, Layout
from autotune.execution.ray import RayExecutor
from autotune.execution.shipping import Files, python_files
from autotune.execution.supervisor import CLOSED
from trials.contract.messages import ProbeResult
from trials.contract.outcome import Outcome

SEND = "autotune.execution.ray.python_files"
TWO_NODES = Layout("cpu", num_nodes=2, ranks_per_node=1, num_slots=1)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster with two nodes."""
    folder = tempfile.mkdtemp(prefix="ray-")  # a short name: Ray puts sockets there
    cluster = subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("two_nodes.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"RAY_TMPDIR": folder},
    )
    assert cluster.stdout is not None
    yield cluster.stdout.readline().strip()
    cluster.communicate()
    shutil.rmtree(folder)


class TestTwoNodes:
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls, address: str) -> Iterator[Executor]:
        with RayExecutor(TWO_NODES, address) as executor:
            executor.submit(probe(num_nodes=2)).result(PATIENCE_S)
            yield executor

    @pytest.fixture
    def running(self, executor: Executor, tmp_path: Path) -> Iterator[tuple["Future[ProbeResult]", Tree]]:
        """A probe that trains on both nodes."""
        request = endless(tmp_path, "starts_a_session:build", num_nodes=2)
        future = executor.submit(request)
        try:
            yield future, tree_of(request)
        finally:
            executor.cancel(request.probe_id)
            future.result(PATIENCE_S)

    def test_a_probe_over_both_is_measured(self, executor: Executor) -> None:
        result = executor.submit(probe(num_nodes=2)).result(PATIENCE_S)
        assert (result.outcome, result.reason) == (Outcome.MEASURED, None)
        assert len(result.memory) == 2

    @pytest.mark.parametrize("nested", [False, True])
    def test_a_factory_that_only_the_driver_has_travels(
        self, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool
    ) -> None:
        folder = tmp_path / "only-here"
        package = folder / "mine" if nested else folder
        shutil.copytree(FACTORIES, package)
        monkeypatch.setattr(SEND, sent_and_gone)
        model = factory_model("mine.tiny:build" if nested else "tiny:build", folder)
        result = executor.submit(probe(model, num_nodes=2)).result(PATIENCE_S)
        assert (result.outcome, result.reason) == (Outcome.MEASURED, None)
        assert not folder.exists()

    def test_a_factory_that_no_worker_has_and_nobody_can_send_is_a_sentence(
        self, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(SEND, lambda here: None)
        missing = tmp_path / "nowhere"
        future = executor.submit(probe(factory_model("tiny:build", missing), num_nodes=2))
        with pytest.raises(ExecutionUnavailable, match=f"has no folder {missing} to import the factory from"):
            future.result(PATIENCE_S)

    def test_each_rank_is_on_a_node_of_its_own(self, running: tuple["Future[ProbeResult]", Tree]) -> None:
        _, tree = running
        assert len(tree.supervisors) == 2
        assert len({node_of(supervisor) for supervisor in tree.supervisors}) == 2

    @pytest.mark.parametrize(
        ("victim", "reason"),
        [("worker of node 0", "the worker was lost"), ("supervisor of node 1", "supervisor was killed")],
    )
    def test_a_killed_process_of_one_node_interrupts_the_probe_and_the_next_is_measured(
        self,
        executor: Executor,
        running: tuple["Future[ProbeResult]", Tree],
        capfd: pytest.CaptureFixture[str],
        victim: str,
        reason: str,
    ) -> None:
        future, tree = running
        worker_of_first = tree.supervisors[0].parent()
        process = worker_of_first if victim.startswith("worker") else tree.supervisors[1]
        assert process is not None
        process.kill()
        result = future.result(PATIENCE_S)
        assert result.outcome == Outcome.INTERRUPTED
        assert reason in (result.reason or "")
        eventually(lambda: alive(tree.processes) == [])
        eventually(lambda: not any(folder.exists() for folder in tree.folders))
        assert executor.submit(probe(num_nodes=2)).result(PATIENCE_S).outcome == Outcome.MEASURED
        assert capfd.readouterr().out == ""


def sent_and_gone(folder: Path) -> Files | None:
    """Read the files to send, and make the folder one that no worker can see."""
    files = python_files(folder)
    shutil.rmtree(folder)
    return files


def node_of(supervisor: psutil.Process) -> psutil.Process:
    (raylet,) = [process for process in supervisor.parents() if process.name() == "raylet"]
    return raylet


@pytest.mark.parametrize(
    "layout",
    [
        Layout("cpu", num_nodes=2, ranks_per_node=2, num_slots=1),
        Layout("cpu", num_nodes=3, ranks_per_node=1, num_slots=1),
        Layout("cuda", num_nodes=1, ranks_per_node=1, num_slots=1),
    ],
    ids=["nodes that are larger", "more nodes", "GPUs"],
)
def test_devices_that_no_worker_has_are_not_here(address: str, layout: Layout) -> None:
    with pytest.raises(NotHereYet, match="plan"):
        RayExecutor(layout, address)
    assert not ray.is_initialized()


@pytest.mark.parametrize("wrong", ["127.0.0.1:1", "no.such.host.invalid:6379", "127.0.0.1:99999", "nonsense"])
def test_an_address_without_a_cluster_is_one_sentence(wrong: str) -> None:
    with pytest.raises(ExecutionUnavailable) as error:
        RayExecutor(TWO_NODES, wrong)
    assert str(error.value).startswith(f"Ray cannot be reached at {wrong}: ")
    assert "\n" not in str(error.value)
    assert not ray.is_initialized()


def test_a_worker_that_is_gone_before_it_answers_was_closed_not_lost(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.execution.ray.CLOSE_TIMEOUT_S", 0.0)
    request = endless(tmp_path, world_size=1)
    with RayExecutor(Layout("cpu", num_nodes=1, ranks_per_node=1, num_slots=1), address) as executor:
        future = executor.submit(request)
        eventually(lambda: training(request))
    assert (future.result().outcome, future.result().reason) == (Outcome.INTERRUPTED, CLOSED)


@dataclass(frozen=True)
class Killed:
    pid: int
    tree: Tree
    started: list[psutil.Process]
    """What ran below it."""
    names: list[str]
    output: str
    errors: str


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """A driver that started Ray, ran one probe to its end, and was killed in the next."""
    folder = tmp_path_factory.mktemp("killed")
    request = endless(folder, "starts_a_session:build")
    with driver(folder, "ray", [probe(), request]) as process:
        tree, started = tree_of(request), below(process.pid)
        names = names_of(started)
        process.kill()
        output, errors = process.communicate()
    return Killed(process.pid, tree, started, names, output, errors)


def test_nothing_of_ray_survives_a_killed_driver(killed: Killed) -> None:
    assert {"raylet", "gcs_server"} <= set(killed.names)
    assert set(killed.tree.processes) <= set(killed.started)
    eventually(lambda: alive(killed.started) == [])
    assert not killed.tree.folders[0].exists()
    assert that_name(str(killed.pid)) == []


def test_ray_prints_nothing_at_its_driver(killed: Killed) -> None:
    assert (killed.output, killed.errors) == (f"{Outcome.MEASURED}\n", "")
