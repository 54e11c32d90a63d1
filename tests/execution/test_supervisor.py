"""Real processes, killed in every place: what the probe comes to, and that nothing of it is left."""

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest
from execution.drivers import driver
from execution.watching import PATIENCE_S, Tree, alive, below, endless, eventually, that_name, tree_of
from probes import probe

from autotune.execution.executor import Layout
from autotune.execution.local import LocalExecutor
from trials.contract.messages import ProbeRequest, ProbeResult
from trials.contract.outcome import Outcome

SECRETS = ("AUTOTUNE_STORAGE", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "RAY_AUTH_TOKEN", "SSH_AUTH_SOCK")
SECRET = "hunter2"
TWO_RANKS = Layout("cpu", num_nodes=1, ranks_per_node=2, num_slots=1)
DEADLINE_S = 4.0
"""Enough for a warm probe to come to train."""
COMPILATION_S = 250.0
"""For an operator that DeepSpeed compiles once per machine."""


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    """One warm slot, whose owner has secrets in its environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SECRETS:
            patch.setenv(name, SECRET)
        with LocalExecutor(TWO_RANKS) as executor:
            executor.submit(probe()).result(PATIENCE_S)
            yield executor


@dataclass(frozen=True)
class Running:
    """A probe that trains on two ranks, each of which has left a process in a session of its own."""

    request: ProbeRequest
    future: "Future[ProbeResult]"
    tree: Tree

    def result(self) -> ProbeResult:
        return self.future.result(PATIENCE_S)


@pytest.fixture
def running(executor: LocalExecutor, tmp_path: Path) -> Iterator[Running]:
    request = endless(tmp_path, "starts_a_session:build")
    future = executor.submit(request)
    try:
        yield Running(request, future, tree_of(request))
    finally:
        executor.cancel(request.probe_id)
        future.result(PATIENCE_S)


def test_nothing_of_a_probe_survives_its_deadline(executor: LocalExecutor, tmp_path: Path) -> None:
    request = endless(tmp_path, "starts_a_session:build", deadline_s=DEADLINE_S)
    future = executor.submit(request)
    tree = tree_of(request)
    assert len(tree.sleepers) == 2
    assert future.result(PATIENCE_S).outcome == Outcome.TIMED_OUT
    assert alive([*tree.ranks, *tree.sleepers]) == []


def test_nothing_of_a_probe_survives_its_cancellation(executor: LocalExecutor, running: Running) -> None:
    executor.cancel(running.request.probe_id)
    assert running.result().outcome == Outcome.INTERRUPTED
    assert alive([*running.tree.ranks, *running.tree.sleepers]) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_crashes_its_probe_and_ends_its_peer(running: Running, rank: int) -> None:
    running.tree.ranks[rank].kill()
    result = running.result()
    assert (result.outcome, result.rank) == (Outcome.CRASHED, rank)
    assert "SIGKILL" in (result.reason or "")
    assert alive([*running.tree.ranks, *running.tree.sleepers]) == []


def test_the_zygote_outlives_a_killed_rank(executor: LocalExecutor, running: Running) -> None:
    running.tree.ranks[0].kill()
    running.result()
    assert executor.submit(probe()).result(PATIENCE_S).outcome == Outcome.MEASURED
    assert alive(running.tree.zygotes) == running.tree.zygotes


@pytest.mark.parametrize("victim", ["zygotes", "supervisors"])
def test_a_killed_parent_interrupts_its_probe_and_is_replaced(
    executor: LocalExecutor, running: Running, victim: str
) -> None:
    (process,), (folder,) = getattr(running.tree, victim), running.tree.folders
    process.kill()
    result = running.result()
    assert result.outcome == Outcome.INTERRUPTED
    assert "killed" in (result.reason or "")
    assert alive(running.tree.processes) == []
    assert that_name(str(folder)) == []
    assert not folder.exists()
    assert executor.submit(probe()).result(PATIENCE_S).outcome == Outcome.MEASURED


def test_nothing_survives_a_killed_owner(tmp_path: Path) -> None:
    request = endless(tmp_path, "starts_a_session:build")
    with driver(tmp_path, "local", [request]) as owner:
        tree, started = tree_of(request), below(owner.pid)
        assert set(tree.processes) <= set(started)
        owner.kill()
        owner.wait()
        eventually(lambda: alive(started) == [])
        eventually(lambda: not tree.folders[0].exists())
        assert that_name(str(owner.pid)) == []


def test_a_killed_supervisor_takes_its_ranks_with_it_though_its_owner_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # nobody is left who would clear it away
    request = endless(tmp_path)
    with driver(tmp_path, "local", [request]) as owner:
        tree = tree_of(request)
        owner.send_signal(signal.SIGSTOP)
        tree.supervisors[0].kill()
        eventually(lambda: alive(tree.processes) == [])


def test_a_probe_leaves_nothing_in_the_scratch_folder(executor: LocalExecutor, running: Running) -> None:
    (folder,) = running.tree.folders
    assert list(folder.iterdir())
    executor.cancel(running.request.probe_id)
    running.result()
    assert list(folder.iterdir()) == []


def test_no_process_of_a_probe_has_a_secret_of_its_owner(running: Running) -> None:
    assert {os.environ[name] for name in SECRETS} == {SECRET}
    assert len(running.tree.processes) == 6
    for process in running.tree.processes:
        environment = process.environ()
        assert SECRET not in environment.values()
        assert environment.keys().isdisjoint(SECRETS)


def test_the_lock_that_a_killed_compiler_left_blocks_no_probe(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero = {"sharding": "zero1"}
    assert (
        executor.submit(probe(config=zero)).result(timeout=250.0).outcome == Outcome.MEASURED
    )  # compiles it
    compiled = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    operator = next(compiled.glob("**/deepspeed_shm_comm"))
    shutil.copytree(operator, tmp_path / operator.name, ignore=shutil.ignore_patterns("lock"))
    lock = tmp_path / operator.name / "lock"
    lock.touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    with LocalExecutor(TWO_RANKS) as other:
        assert other.submit(probe(config=zero)).result(PATIENCE_S).outcome == Outcome.MEASURED
    assert not lock.exists()
