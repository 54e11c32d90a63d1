"""docker-compose.yml: valid, closed to the outside, and every command in it run as a process."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest
from stack import (
    COMPOSE,
    DEADLINE_S,
    ROOT,
    SERVICES,
    TEXT,
    TOKEN,
    VARIABLE,
    Stack,
    command_of,
    health_check_of,
    interpolate,
)

from autotune.settings import Settings

RAY_NODES = {"ray-head", "ray-worker", "ray-worker-gpu", "api", "worker"}
REQUIRED = {"POSTGRES_PASSWORD", "RAY_AUTH_TOKEN", "AUTOTUNE_TOKEN"}
Seen = TypeVar("Seen")


class TestFile:
    def test_schema(self, tmp_path: Path) -> None:
        """The schema of the Compose specification, which the program brings along."""
        program = str(Path(sys.executable).with_name("check-jsonschema"))
        check = [program, "--builtin-schema", "vendor.compose-spec"]
        subprocess.run([*check, ROOT / "docker-compose.yml"], check=True)
        misspelt = tmp_path / "docker-compose.yml"
        misspelt.write_text(TEXT.replace("healthcheck:", "healthchek:"))
        done = subprocess.run([*check, misspelt], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "'healthchek'" in done.stdout

    def test_only_the_api_is_published_and_only_here(self) -> None:
        published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
        assert published == {"api": ["127.0.0.1:${AUTOTUNE_PORT:-8000}:8000"]}
        assert not any("network_mode" in service or "privileged" in service for service in SERVICES.values())

    def test_secrets_come_from_the_environment(self) -> None:
        used = {match["name"] for match in VARIABLE.finditer(TEXT) if match["name"]}
        required = {match["name"] for match in VARIABLE.finditer(TEXT) if match["operator"] == ":?"}
        assert required == REQUIRED
        example = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.M))
        assert set(example) == used
        assert all(example[name] == "" for name in required)

    def test_what_an_administrator_may_set_reaches_the_api(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is left empty in .env, as autotune has it; and by its name, Prometheus may ask beside it."""
        settable = ("AUTOTUNE_HOSTS", "AUTOTUNE_FACTORIES", "AUTOTUNE_MAX_BODY_BYTES", "AUTOTUNE_LOG_LEVEL")
        for name in settable:
            monkeypatch.setenv(name, interpolate(SERVICES["api"]["environment"][name], {}))
        settings = Settings()
        assert settings.known_hosts == ("api",)
        for name in settable[1:]:
            field = name.removeprefix("AUTOTUNE_").lower()
            assert getattr(settings, field) == Settings.model_fields[field].default
            monkeypatch.setenv(name, interpolate(SERVICES["api"]["environment"][name], {name: "7"}))
        assert Settings().max_body_bytes == 7

    def test_only_those_that_keep_the_record_know_the_database(self) -> None:
        knowing = {name for name, service in SERVICES.items() if "POSTGRES_PASSWORD" in str(service)}
        assert knowing == {"postgres", "api", "worker"}

    def test_only_the_api_knows_what_opens_it(self) -> None:
        assert [name for name, service in SERVICES.items() if "AUTOTUNE_TOKEN" in str(service)] == ["api"]

    def test_every_node_of_ray_shows_the_token(self) -> None:
        assert {name for name in SERVICES if "ray start" in " ".join(command_of(name))} == RAY_NODES
        for name in RAY_NODES:
            environment = SERVICES[name]["environment"]
            assert environment["RAY_AUTH_MODE"] == "token"
            assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")

    def test_the_workers_differ_in_their_devices_only(self) -> None:
        cpu, gpu = SERVICES["ray-worker"], SERVICES["ray-worker-gpu"]
        for key in ("command", "environment", "depends_on", "healthcheck", "volumes"):
            assert cpu[key] == gpu[key]
        assert gpu["profiles"] == ["gpu"]
        assert "profiles" not in cpu
        (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]

    def test_the_image_has_what_it_is_built_from(self) -> None:
        dockerfile = (ROOT / "Dockerfile").read_text()
        copies = [line.split() for line in re.findall(r"^COPY (.*)$", dockerfile, re.M)]
        copied = {source for line in copies for source in line[:-1]}
        assert all((ROOT / source).exists() for source in copied)
        assert copied >= {"autotune", "search_spaces", "trials", "pyproject.toml", "constraints.txt"}
        first, *exceptions = (ROOT / ".dockerignore").read_text().split()
        assert first == "*"
        assert {line.removeprefix("!") for line in exceptions if line.startswith("!")} == copied
        arguments = re.findall(r"^ARG (\w+)", dockerfile, re.M)
        assert arguments
        for service in SERVICES.values():
            assert set(service.get("build", {}).get("args", {})) <= set(arguments)

    def test_each_image_is_built_by_one_service(self) -> None:
        built = [service["image"] for service in SERVICES.values() if "build" in service]
        assert sorted(built) == ["autotune", "autotune-gpu"]
        for service in SERVICES.values():
            assert ("build" in service) == (service.get("pull_policy") == "missing")
            assert service["image"] in {*built, "postgres:18"}

    def test_what_the_services_mount_is_declared(self) -> None:
        mounted = {volume.split(":")[0] for each in SERVICES.values() for volume in each.get("volumes", [])}
        assert mounted == set(COMPOSE["volumes"])

    def test_every_service_is_started_again_and_says_whether_it_is_healthy(self) -> None:
        for service in SERVICES.values():
            assert service["restart"] == "unless-stopped"
            assert service["healthcheck"]["test"][0] == "CMD"


TINY = {
    "model_type": "llama", "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
JOB = {"model": TINY, "gpus": "cpu:1", "ceiling": "1500MiB", "trials": 2, "probe_seconds": 0.5}
PINNED = {"sharding": ["ddp"], "precision": ["fp32"], "activation_checkpointing": ["none"]}
JOBS = [
    {**JOB, "name": name, "settings": {**PINNED, "micro_batch_size": [1, 2], "sequence_length": [length]}}
    for name, length in (("first", 16), ("second", 32), ("third", 64))
]
"""Each of another length, so that no probe of one serves the next."""
NAMES = [job["name"] for job in JOBS]


@pytest.fixture(scope="module")
def api(stack: Stack) -> Iterator[httpx2.Client]:
    """At the address that is published."""
    published = stack.local(SERVICES["api"]["ports"][0]).rpartition(":")[0]
    with httpx2.Client(base_url=f"http://{published}", timeout=60.0) as client:
        yield client


@pytest.fixture(scope="module")
def admin(api: httpx2.Client) -> httpx2.Client:
    """The same, with the token of the environment."""
    return httpx2.Client(base_url=api.base_url, timeout=60.0, headers={"Authorization": f"Bearer {TOKEN}"})


class TestService:
    """`docker compose up --scale worker=2`, from the first request to the last worker's end."""

    def test_every_command_of_the_file_was_run(self, stack: Stack) -> None:
        commands = {command_of(name) for name in SERVICES} - {()}
        assert stack.ran == commands | {health_check_of(name) for name in SERVICES}

    def test_the_head_of_ray_asks_for_its_token(self, stack: Stack) -> None:
        assert stack.health("ray-head-1", RAY_AUTH_TOKEN="f" * 32) != 0

    def test_the_api_is_ready_for_all_and_open_to_those_with_a_token(
        self, api: httpx2.Client, admin: httpx2.Client
    ) -> None:
        assert api.get("/readyz").status_code == 200
        assert api.get("/v1/jobs").status_code == 401
        assert api.post("/v1/jobs", json=JOB).status_code == 401
        assert admin.get("/v1/jobs").json()["jobs"] == []

    def test_a_token_made_in_the_container_of_the_api_allows_what_it_says(
        self, stack: Stack, api: httpx2.Client
    ) -> None:
        made = stack.execute("api", "autotune", "tokens", "--add", "ci", "--role", "read", "--json")
        assert made.returncode == 0, made.stderr
        show = {"Authorization": f"Bearer {json.loads(made.stdout)['token']}"}
        assert api.get("/v1/jobs", headers=show).status_code == 200
        assert api.post("/v1/jobs", json=JOB, headers=show).status_code == 403

    def test_the_api_finds_the_devices_of_the_cluster(self, admin: httpx2.Client) -> None:
        (here,) = admin.get("/v1/gpus").json()["here"]
        assert here["kind"] == "cpu"

    def test_three_jobs_and_two_workers_make_three_recommendations(
        self, stack: Stack, admin: httpx2.Client
    ) -> None:
        """The worker that takes the last is stopped on the way: it gives it back, and the other goes on."""
        workers = {_pid(stack, name): name for name in ("worker-1", "worker-2")}
        with ThreadPoolExecutor() as at_once:
            for answer in at_once.map(lambda job: admin.post("/v1/jobs", json=job), JOBS):
                assert answer.status_code == 201, answer.text
        first = _wait(_drivers, lambda now: set(now.values()) == set(workers), admin)
        then = _wait(_drivers, lambda now: now.keys() - first.keys(), admin)
        (last,) = then.keys() - first.keys()
        _wait(lambda client: client.get(f"/v1/jobs/{last}").json()["study"], bool, admin)  # it probes
        busy = workers[then[last]]
        assert stack.stop(busy) == 0, stack.log(busy).read_text()[-3000:]
        assert "stopped" in stack.log(busy).read_text()

        _wait(_statuses, lambda now: now == {"finished"}, admin)
        for name in NAMES:
            answer = admin.get(f"/v1/jobs/{name}/recommendation").json()
            assert answer["recommendation"]["tokens_per_second"]["median"] > 0
        studies = admin.get("/api/studies").json()["study_summaries"]
        assert {study["study_name"] for study in studies} == set(NAMES)

    def test_what_is_on_a_node_of_ray_ends_with_it(self, stack: Stack) -> None:
        """To be started again with a new one; the command alone would find no cluster any more."""
        (name,) = [each.name for each in stack.running() if each.service == "worker"]
        container = stack.containers[name]
        (node,) = [
            p for p in stack.processes() if f"--node_manager_port={container.node_port}" in p.cmdline()
        ]
        node.kill()
        assert container.process is not None
        assert container.process.wait(DEADLINE_S) == 0, stack.log(name).read_text()[-3000:]

    def test_the_api_ends_when_it_is_told_to(self, stack: Stack) -> None:
        assert stack.stop("api-1") == 0, stack.log("api-1").read_text()[-3000:]

    def test_no_probe_is_left(self, stack: Stack) -> None:
        assert [p.cmdline() for p in stack.processes() if "trials." in " ".join(p.cmdline())] == []


def _pid(stack: Stack, name: str) -> int:
    process = stack.containers[name].process
    assert process is not None
    return process.pid


def _jobs(admin: httpx2.Client) -> list[dict[str, Any]]:
    return [admin.get(f"/v1/jobs/{name}").json() for name in NAMES]


def _statuses(admin: httpx2.Client) -> set[str]:
    return {job["status"] for job in _jobs(admin)}


def _drivers(admin: httpx2.Client) -> dict[str, int]:
    """Job → process that drives it."""
    told = {job["name"]: re.match(r"process (\d+) on ", job["driver"] or "") for job in _jobs(admin)}
    return {name: int(match[1]) for name, match in told.items() if match}


def _wait(
    look: Callable[[httpx2.Client], Seen], is_so: Callable[[Seen], object], admin: httpx2.Client
) -> Seen:
    """What is seen once it is so."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_so(seen := look(admin)):
        if time.monotonic() > deadline or "failed" in _statuses(admin):
            pytest.fail(f"{seen} is still not so: {_jobs(admin)}")
        time.sleep(0.3)
    return seen


class TestInterpolation:
    @pytest.mark.parametrize(
        ("text", "result"),
        [("a$$b", "a$b"), ("${X}", "1"), ("${X:-2}", "1"), ("${Y:-2}", "2"), ("${Y}", ""), ("${X:?no}", "1")],
    )
    def test_as_compose_does(self, text: str, result: str) -> None:
        assert interpolate(text, {"X": "1"}) == result

    @pytest.mark.parametrize("name", sorted(REQUIRED))
    def test_what_is_required(self, name: str) -> None:
        (text,) = {match[0] for match in VARIABLE.finditer(TEXT) if f"{name}:?" in match[0]}
        with pytest.raises(KeyError, match=r"set it in \.env"):
            interpolate(text, {name: ""})
