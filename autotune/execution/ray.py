"""Probes on the workers of a Ray cluster, local or remote."""

import logging
import os
import platform
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from autotune.errors import ExecutionUnavailable, NotHere, NotHereYet, NotNow
from autotune.execution.executor import LaneExecutor, Layout
from autotune.execution.ray_head import RayHead
from autotune.execution.shipping import MAX_BYTES, Files, python_files
from autotune.execution.supervisor import CLOSED, Supervisor, SupervisorLost, interrupted
from autotune.signals import sigterm_kept
from trials.contract.merge import merge
from trials.contract.messages import NodeShare, ProbeRequest, ProbeResult, RankReport, Versions
from trials.contract.outcome import VERDICTS, Outcome
from trials.contract.rendezvous import free_port

PLACEMENT_TIMEOUT_S = 60.0
"""How long a placement group may wait for its devices before they count as taken by others."""
PLACEMENT_CHECK_S = 0.5
"""How soon a probe that waits for its devices notices that it was cancelled."""
CLOSE_TIMEOUT_S = 20.0
CONNECT_TIMEOUT_S = 5.0
LEAVE_SUPERVISORS_ALONE = {"RAY_kill_child_processes_on_worker_exit": "0"}
"""Ray would kill a supervisor with its worker, before it could clear away what it watches over."""
LOG_TIMEOUT_S = 5.0
ASKING = "versions"
"""In place of a probe's name, where none is to be run."""
CREATION_FAILED = "creation task"
"""In Ray's words for an actor that never came up, as against one that was lost; both are ActorDiedError."""


class NodeWorker:
    """One node's part of a lane: an actor that owns the supervisor of that node."""

    def __init__(self, device: str) -> None:
        self._supervisor = Supervisor("cuda" if device == "cuda" else "cpu")

    def rendezvous(self) -> tuple[str, int]:
        """Address and free port for the ranks of a probe to meet at, when this is its first node."""
        return ray.util.get_node_ip_address(), free_port()

    def run(self, text: str, files: Files | None) -> list[str]:
        """Run a NodeShare; its reports as JSON.

        `files` are those of its factory. A folder here that holds the same is used as it is, with whatever
        else is in it. Raises FactoryNotHere where there are neither.
        """
        share = NodeShare.parse(text)
        if folder := share.request.model.factory_path:
            if not files and not Path(folder).is_dir():
                raise FactoryNotHere(
                    f"the Ray worker {platform.node()} has no folder {folder} to import the factory from, "
                    f"and it is not one whose Python files can be sent (up to {MAX_BYTES >> 20} MiB); start "
                    "autotune in a smaller folder, or put this one on every worker"
                )
            if files == python_files(Path(folder)):
                files = None
        return [report.to_json() for report in self._supervisor.run(share, files)]

    def versions(self) -> str | None:
        told = self._supervisor.versions()
        return None if told is None else told.to_json()

    def log(self) -> str:
        return self._supervisor.log()

    def cancel(self, probe_id: str) -> None:
        self._supervisor.cancel(probe_id)

    def close(self) -> None:
        self._supervisor.close()


class FactoryNotHere(Exception):
    """A worker cannot import the user's factory; the message says what to do."""


class _GivenUp(Exception):
    """The probe was cancelled, or the executor closed, before it began; the message says which."""


class RayLane:
    """A placement group with one worker per node, opened by its first probe and kept for the next ones."""

    def __init__(self, layout: Layout, *, sends_files: bool) -> None:
        """`sends_files`: its workers may be on machines that have not what the driver's has."""
        self._layout = layout
        self._sends_files = sends_files
        self._group: PlacementGroup | None = None
        self._workers: list[Any] = []
        self._cancelled: str | None = None
        self._closed = False
        self._lock = threading.Lock()

    def run(self, request: ProbeRequest) -> ProbeResult:
        started = time.monotonic()
        reports = self._reports(request)
        return merge(request, reports, time.monotonic() - started)

    def versions(self) -> Versions | None:
        try:
            told = ray.get(self._open(ASKING)[0].versions.remote())
        except (RayError, ExecutionUnavailable, _GivenUp):  # the first probe meets it again, and reports it
            self._discard()
            return None
        return None if told is None else Versions.parse(told)

    def log(self) -> str:
        with self._lock:
            workers = list(self._workers)
        try:
            return "\n".join(ray.get([worker.log.remote() for worker in workers], timeout=LOG_TIMEOUT_S))
        except RayError:  # whoever waits for the probe itself learns what happened
            return ""

    def cancel(self, probe_id: str) -> None:
        with self._lock:
            self._cancelled = probe_id
            workers = list(self._workers)
        for worker in workers:
            worker.cancel.remote(probe_id)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            workers, self._workers = self._workers, []
            group, self._group = self._group, None
        closing = [worker.close.remote() for worker in workers]
        ray.wait(closing, num_returns=len(closing), timeout=CLOSE_TIMEOUT_S) if closing else None
        for worker in workers:
            ray.kill(worker)
        if group is not None:
            remove_placement_group(group)

    def _reports(self, request: ProbeRequest) -> list[RankReport]:
        try:
            workers = self._open(request.probe_id)
            host, port = ray.get(workers[0].rendezvous.remote())
        except (RayError, _GivenUp) as error:
            self._discard()
            if isinstance(error, RayActorError) and CREATION_FAILED in str(error):
                cause = str(error).splitlines()[-1]
                raise ExecutionUnavailable(f"a Ray worker cannot be started: {cause}") from error
            why = str(error) if isinstance(error, _GivenUp) else self._why_lost(error)
            return interrupted(NodeShare(request=request, rendezvous_port=1), why)
        shares = [
            NodeShare(request=request, node_rank=node, rendezvous_host=host, rendezvous_port=port)
            for node in range(request.num_nodes)
        ]
        folder = request.model.factory_path
        files = python_files(Path(folder)) if folder and self._sends_files else None
        running = {
            worker.run.remote(share.to_json(), files): share
            for worker, share in zip(workers, shares, strict=True)
        }
        reports: list[RankReport] = []
        lost = False
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            share = running.pop(done)
            try:
                of_node = [RankReport.parse(report) for report in ray.get(done)]
            except RayTaskError as error:  # the worker lives, but has no supervisor
                if not isinstance(error.cause, SupervisorLost):
                    self._discard()
                    raise ExecutionUnavailable(str(error.cause)) from error
                lost = True
                of_node = interrupted(share, str(error.cause))
            except RayError as error:
                lost = True
                of_node = interrupted(share, self._why_lost(error))
            reports += of_node
            if running and any(not VERDICTS[report.outcome].has_speed for report in of_node):
                # The other nodes' ranks would wait for these until the deadline.
                self.cancel(request.probe_id)
        if lost:
            self._discard()
            # Ranks of the other nodes call it a crash that their peers are gone.
            reports = [report for report in reports if report.outcome != Outcome.CRASHED]
        return reports

    def _open(self, probe_id: str) -> list[Any]:
        """The lane's workers, on devices that are theirs alone. Raises ExecutionUnavailable and _GivenUp."""
        self._check_wanted(probe_id)
        with self._lock:
            workers = self._workers
        if not workers:
            size = self._layout.ranks_per_node
            resources = {"GPU": size, "CPU": size} if self._layout.device == "cuda" else {"CPU": size}
            group = self._place(resources, probe_id)
            workers = self._start_workers(resources, group)
            with self._lock:
                self._group, self._workers = group, workers
        # Whoever cancels or closes from here on finds the workers and tells them.
        self._check_wanted(probe_id)
        return workers

    def _place(self, resources: Mapping[str, int], probe_id: str) -> PlacementGroup:
        nodes = self._layout.num_nodes
        group = placement_group([resources] * nodes, "STRICT_SPREAD" if nodes > 1 else "STRICT_PACK")
        until = time.monotonic() + PLACEMENT_TIMEOUT_S
        try:
            while not group.wait(PLACEMENT_CHECK_S):
                self._check_wanted(probe_id)
                if time.monotonic() > until:
                    raise NotNow(
                        f"the Ray cluster had no room for a probe within {PLACEMENT_TIMEOUT_S:g} s: "
                        f"it needs {nodes} × {_words(resources)}; are others using it?"
                    )
        except BaseException:
            remove_placement_group(group)
            raise
        return group

    def _check_wanted(self, probe_id: str) -> None:
        with self._lock:
            if self._closed:
                raise _GivenUp(CLOSED)
            if self._cancelled == probe_id:
                raise _GivenUp("cancelled")

    def _start_workers(self, resources: Mapping[str, int], group: PlacementGroup) -> list[Any]:
        worker = ray.remote(NodeWorker)
        return [
            worker.options(
                num_cpus=resources["CPU"],
                num_gpus=resources.get("GPU", 0),
                max_concurrency=4,  # `cancel` and `close` come while `run` is under way
                runtime_env={"env_vars": LEAVE_SUPERVISORS_ALONE},
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=node
                ),
            ).remote(self._layout.device)
            for node in range(self._layout.num_nodes)
        ]

    def _why_lost(self, error: RayError) -> str:
        """In words; a worker that `close` killed may be gone before its last answer arrived."""
        with self._lock:
            return CLOSED if self._closed else f"the worker was lost: {_first_line(error)}"

    def _discard(self) -> None:
        """Give up the workers after one was lost; the next probe opens new ones."""
        with self._lock:
            workers, self._workers = self._workers, []
            group, self._group = self._group, None
        for worker in workers:
            ray.kill(worker)
        if group is not None:
            remove_placement_group(group)


class RayExecutor(LaneExecutor):
    """Starts a local Ray, or joins the cluster at `address`, and leaves it when closed."""

    def __init__(self, layout: Layout, address: str | None = None) -> None:
        """Raises ExecutionUnavailable when Ray cannot be reached, NotHere when no worker has the devices,
        and NotNow and NotHereYet of a cluster at `address`.
        """
        self._head: RayHead | None = None
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # As `init` does itself, but only after a warning that the local cluster demands a token.
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            if address:
                _check_port(address)
            with _quiet_driver(), sigterm_kept():
                ray.init(
                    address=address or self._head_address(layout),
                    log_to_driver=False,
                    logging_level="error",
                )
        except (RayError, OSError, OverflowError, RuntimeError, ValueError) as error:
            self._leave()
            where = f"at {address}" if address else "on this machine"
            kind = NotNow if address else ExecutionUnavailable
            raise kind(
                f"Ray cannot be reached {where}: {_first_line(error)}; check --ray-address (and "
                "RAY_AUTH_MODE, should the cluster demand a token), or use --executor local"
            ) from error
        if lack := _lack(layout, [node["Resources"] for node in ray.nodes() if node["Alive"]]):
            self._leave()
            raise (NotHereYet if address else NotHere)(lack)
        super().__init__([RayLane(layout, sends_files=address is not None) for _ in range(layout.num_slots)])

    def close(self) -> None:
        super().close()
        self._leave()

    def _leave(self) -> None:
        with sigterm_kept():
            ray.shutdown()
        if self._head is not None:
            self._head.close()

    def _head_address(self, layout: Layout) -> str:
        self._head = RayHead(num_cpus=layout.world_size * layout.num_slots)
        # The head demands the token that Ray keeps for this user; who joins must be told to show it.
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        return self._head.address


@contextmanager
def _quiet_driver() -> Iterator[None]:
    """Keep a driver that is initialised under it from printing the cluster's errors.

    It would do so on stdout, which belongs to the answer, and Ray has no setting against it. What matters
    to a probe is in its result.
    """
    listen = ray._private.worker.listen_error_messages
    ray._private.worker.listen_error_messages = lambda worker, threads_stopped: None
    try:
        yield
    finally:
        ray._private.worker.listen_error_messages = listen


def _check_port(address: str) -> None:
    """Raise OSError where nothing listens: Ray itself would wait for it for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()


def _lack(layout: Layout, nodes: list[Mapping[str, float]]) -> str | None:
    """A sentence where too few nodes have the devices of a probe."""
    resource = "GPU" if layout.device == "cuda" else "CPU"
    enough = [node for node in nodes if node.get(resource, 0) >= layout.ranks_per_node]
    if len(enough) >= layout.num_nodes:
        return None
    have = ", ".join(f"{node.get(resource, 0):g}" for node in nodes) or "none"
    return (
        f"no worker has what a probe needs: {layout.num_nodes} × {layout.ranks_per_node} {resource}, "
        f"while the nodes of the Ray cluster have {have}; start workers that do, "
        "or use `autotune plan` for a forecast without them"
    )


def _words(resources: Mapping[str, int]) -> str:
    return " and ".join(f"{count} {name}" for name, count in resources.items())


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
