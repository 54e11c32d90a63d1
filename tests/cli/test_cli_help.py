"""The command line explains itself, and quickly."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from cli_support import Cli

from autotune.cli import app

README = (Path(__file__).parents[2] / "README.md").read_text()
COMMANDS = typer.main.get_command(app).commands
PARAMETERS = [
    pytest.param(parameter, id=f"{name} {parameter.name}")
    for name, command in COMMANDS.items()
    for parameter in command.params
]
HEAVY = ("torch", "optuna", "ray", "transformers", "deepspeed", "sqlalchemy")
LOADED = """
import json, sys
sys.argv[0] = "autotune"
from autotune.cli import main
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def test_there_are_the_commands_of_the_first_delivery():
    assert set(COMMANDS) >= {
        "tune", "resume", "jobs", "show", "trials", "export", "models", "gpus", "spaces",
    }  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_does(cli: Cli, name: str):
    ended = cli(name, "--help")
    assert ended.code == 0
    first_line = COMMANDS[name].help.partition("\n")[0]
    assert first_line.endswith(".")
    assert first_line in " ".join(ended.out.split())


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_an_option_says_what_it_is_for(parameter: typer.core.TyperOption):
    assert parameter.help
    assert parameter.help.endswith(".")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_stands_in_the_table_of_the_readme(name: str):
    rows = [line.split("|")[1] for line in README.splitlines() if line.startswith("| `autotune")]
    assert any(re.search(rf"\b{name}\b", row) for row in rows)


def test_help_lists_the_exit_codes(cli: Cli):
    words = " ".join(cli("--help").out.split())
    for code in (
        "0 done", "1 a fault of ours", "2 bad input", "3 nothing fits", "4 nothing could be measured",
        "130 interrupted",
    ):  # fmt: skip
        assert code in words


def test_without_a_command_it_helps(cli: Cli):
    ended = cli()
    assert ended.code == 0
    assert "Usage: autotune" in ended.out
    assert ended.err == ""


def test_it_knows_its_version(cli: Cli):
    assert cli("--version").out == f"autotune {version('autotune')}\n"


@pytest.mark.parametrize("words", ["--help", "tune --help", "models --json", "spaces"])
def test_what_needs_no_library_loads_none(tmp_path: Path, words: str):
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout
    modules = json.loads(done.stderr)
    assert "typer" in modules
    assert not set(HEAVY) & set(modules)
