"""The services of docker-compose.yml as processes of this machine."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
VARIABLE = re.compile(r"\$(?:(\$)|\{(?P<name>\w+)(?:(?P<operator>:[-?])(?P<word>[^}]*))?\})")
"""What Compose replaces in a value: $$, ${NAME}, ${NAME:-default} and ${NAME:?message}."""

PASSWORD = "s3cret"
TOKEN = "0123456789abcdef0123456789abcdef"
DEADLINE_S = 90.0


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


class Stack:
    """The services as processes of this machine: hosts and ports are replaced, all else is the file's."""

    def __init__(self, folder: Path, ray_folder: Path, replacements: Mapping[str, str]) -> None:
        self._folder = folder
        self._ray_folder = ray_folder
        self._replacements = replacements
        self._variables = {"POSTGRES_PASSWORD": PASSWORD, "RAY_AUTH_TOKEN": TOKEN}

    def local(self, text: str) -> str:
        there = "|".join(map(re.escape, self._replacements))
        return re.sub(there, lambda found: self._replacements[found[0]], interpolate(text, self._variables))

    def environment(self, service: str) -> dict[str, str]:
        own = {name: self.local(value) for name, value in SERVICES[service].get("environment", {}).items()}
        kept = {"HOME": os.environ["HOME"], "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return kept | {"RAY_TMPDIR": str(self._ray_folder)} | own

    def start(self, service: str) -> "subprocess.Popen[bytes]":
        with self.log(service).open("w") as log:
            return subprocess.Popen(
                [self.local(word) for word in SERVICES[service]["command"]],
                env=self.environment(service),
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, service: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """As `docker compose run` does: the service's entrypoint with arguments in place of its command."""
        return subprocess.run(
            [*map(self.local, SERVICES[service]["entrypoint"]), *arguments],
            env=self.environment(service),
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def health(self, service: str, **environment: str) -> int:
        """The exit status of a service's health check."""
        kind, *command = SERVICES[service]["healthcheck"]["test"]
        assert kind == "CMD"
        return subprocess.run(
            [self.local(word) for word in command],
            env={**self.environment(service), **environment},
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        ).returncode

    def log(self, service: str) -> Path:
        return self._folder / f"{service}.log"


def wait_until(condition: Callable[[], bool], what: str, log: Path | None = None) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}\n{log.read_text()[-3000:] if log else ''}")
        time.sleep(0.3)


def free_ports(count: int) -> list[int]:
    """TCP ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def end_processes_of(ray_folder: Path) -> None:
    """End all that were started with this folder in their environment, however they detached themselves."""
    marker = f"RAY_TMPDIR={ray_folder}".encode()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if marker in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found.append(process)
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=10)
