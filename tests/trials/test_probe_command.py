"""`python -P -m trials.probe`: one probe, alone, by a user who has nothing else of autotune."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from probes import ENDLESS, TINY, factory_model, probe

from trials.contract.messages import ProbeResult
from trials.contract.outcome import Outcome

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-P", "-m", "trials.probe"]
REQUEST = json.loads(probe(world_size=1).to_json())
SOON_S = 60.0


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    return written(tmp_path / "request.json", REQUEST)


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_probe_leaves_its_result_and_says_what_became_of_it(tmp_path: Path) -> None:
    source = written(tmp_path / "request.json", probe(config={"sharding": "fsdp"}).to_json())
    done = run(source, tmp_path / "result.json")
    assert (done.returncode, done.stdout) == (0, "measured\n"), done.stderr
    result = ProbeResult.parse((tmp_path / "result.json").read_text())
    assert result.outcome == Outcome.MEASURED
    assert result.tokens_per_second is not None
    assert len(result.memory) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["request.json", "result.json"]


def test_a_failed_probe_is_a_result_too(tmp_path: Path) -> None:
    hangs = probe(factory_model("unusable:hangs"), deadline_s=2.0, world_size=1)
    source = written(tmp_path / "request.json", hangs.to_json())
    done = run(source, tmp_path / "result.json")
    assert (done.returncode, done.stdout) == (0, "timed_out: not done after 2 s\n"), done.stderr
    assert ProbeResult.parse((tmp_path / "result.json").read_text()).outcome == Outcome.TIMED_OUT


def test_a_rank_on_cpu_gives_freed_memory_back(tmp_path: Path) -> None:
    """Also where nobody could set what malloc reads when the process starts."""
    source = written(
        tmp_path / "request.json",
        probe(factory_model("unusable:tells_what_it_keeps"), world_size=1).to_json(),
    )
    done = run(source, tmp_path / "result.json")
    kept = re.search(r"(\d+) MiB for one of 19", done.stdout)
    assert kept is not None, done.stdout
    assert 19 <= int(kept[1]) < 30


def test_an_operator_that_cannot_be_compiled_is_invalid(tmp_path: Path) -> None:
    needs = probe(TINY["llama"], {"sharding": "zero1"}, world_size=1)
    source = written(tmp_path / "request.json", needs.to_json())
    done = run(source, tmp_path / "result.json", CXX="false", TORCH_EXTENSIONS_DIR=str(tmp_path / "built"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("invalid: DeepSpeed's ShareMemComm cannot be compiled on this machine: ")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_explains_itself_with_a_request_that_is_one(option: str) -> None:
    done = run(option)
    assert (done.returncode, done.stderr) == (0, "")
    example = done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1]
    assert type(probe()).parse(example).config.sharding == "fsdp"


@pytest.mark.parametrize("arguments", [[], ["one"], ["one", "two", "three"]])
def test_other_arguments_are_answered_with_the_usage(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: python -P -m trials.probe request.json result.json")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is not a probe request: not JSON: "),
        ("{", "is not a probe request: not JSON: "),
        ("[]", "is not a probe request: input should be a valid dictionary "),
        (
            REQUEST | {"devise": "cpu"},
            "is not a probe request: unknown field 'devise'; did you mean 'device'?",
        ),
        (REQUEST | {"world_size": 0}, "is not a probe request: world_size: input should be greater than "),
        (REQUEST | {"world_size": 4, "num_nodes": 2}, "a probe of several nodes needs an executor; "),
    ],
)
def test_what_is_no_request_is_refused_in_a_sentence(content: Any, sentence: str, tmp_path: Path) -> None:
    done = run(written(tmp_path / "request.json", content), tmp_path / "result.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr
    assert not (tmp_path / "result.json").exists()


def test_a_request_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path / "missing.json", tmp_path / "result.json")
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path / 'missing.json'} cannot be read: No such file or directory\n"


@pytest.mark.parametrize(
    ("target", "why"), [("missing/result.json", "No such file or directory"), (".", "it is a folder")]
)
def test_a_result_that_cannot_be_written_is_said_before_the_probe(
    target: str, why: str, request_file: Path, tmp_path: Path
) -> None:
    done = run(request_file, tmp_path / target)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{tmp_path / target} cannot be written: {why}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_probe_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    endless = probe(measurement=ENDLESS, world_size=1)
    source = written(tmp_path / "request.json", endless.to_json())
    command = subprocess.Popen(
        [*COMMAND, source, tmp_path / "result.json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _wait_for_measurement(scratch)
        ranks = psutil.Process(command.pid).children(recursive=True)
        command.send_signal(number)
        said = command.communicate(timeout=SOON_S)
    finally:
        command.kill()
    assert (command.returncode, *said) == (130, "", "interrupted\n")
    assert ranks
    assert not any(rank.is_running() for rank in ranks)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["request.json", "scratch"]
    assert list(scratch.glob("autotune-*")) == []


def _wait_for_measurement(scratch: Path) -> None:
    give_up = time.monotonic() + SOON_S
    while not any("measure" in journal.read_text() for journal in scratch.glob("*/*.jsonl")):
        assert time.monotonic() < give_up
        time.sleep(0.05)
