"""A job from the command line to its export: real probes, in processes of their own."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from cli_support import AUTOTUNE, TINY, Ended, run_process
from test_cli_json import ANSWER, TRIALS

PINNED = ("sharding=ddp", "precision=fp32", "sequence_length=16", "activation_checkpointing=none")
PINS = [word for pin in PINNED for word in ("--set", pin)]


def tune(name: str, num_trials: int) -> list[str]:
    """As many configurations as trials, on one rank."""
    sizes = ",".join(map(str, range(1, num_trials + 1)))
    return [
        "tune", "tiny.json", "--gpus", "cpu:1", "--executor", "local", "--ceiling", "1500MiB", "--name", name,
        "--trials", str(num_trials), *PINS, "--set", f"micro_batch_size={sizes}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("run")
    (path / "tiny.json").write_text(json.dumps(TINY))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AUTOTUNE_STORAGE", "AUTOTUNE_RAY_ADDRESS", "AUTOTUNE_LOG_LEVEL"):
            patch.delenv(name, raising=False)
        yield path


@pytest.fixture(scope="module")
def tuned(folder: Path) -> Ended:
    return run_process(folder, *tune("first", 3), "--json")


def test_it_prints_one_answer_and_its_progress_elsewhere(tuned: Ended):
    jsonschema.validate(tuned.json, ANSWER)
    lines = tuned.err.splitlines()
    assert lines[0] == "job first: at most 3 trials under 1.46 GiB per device, 3 candidates"
    assert sum(line.startswith("trial 0: ") for line in lines) == 1
    assert any(line.startswith("  best so far") for line in lines)
    assert any(", confirmation 3 of 3: " in line for line in lines)


def test_the_recommendation_is_confirmed_and_fits(tuned: Ended):
    answer = tuned.json
    chosen = answer["recommendation"]
    assert answer["status"] == "finished"
    assert chosen["evidence"] == "confirmed"
    assert 0 < chosen["peak_bytes"] <= chosen["ceiling_bytes"] * (1 - chosen["headroom"])
    assert chosen["ceiling_bytes"] == 1500 * 2**20
    assert chosen["tokens_per_second"]["low"] <= chosen["tokens_per_second"]["median"]
    assert answer["counts"]["measured"] + answer["counts"]["outpaced"] == sum(answer["counts"].values()) == 3
    assert answer["spent"]["gpu_hours"] == 0.0
    assert answer["spent"]["trials"] == 3


def test_show_says_the_same(tuned: Ended, folder: Path):
    assert run_process(folder, "show", "first", "--json").json == tuned.json


def test_every_trial_is_listed(tuned: Ended, folder: Path):
    trials = run_process(folder, "trials", "first", "--json").json
    jsonschema.validate(trials, TRIALS)
    rows = trials["trials"]
    assert [row["number"] for row in rows] == [0, 1, 2]
    assert {row["config"]["micro_batch_size"] for row in rows} == {1, 2, 3}
    assert {row["outcome"] for row in rows} <= {"measured", "outpaced"}


def test_it_can_be_used(tuned: Ended, folder: Path):
    ended = run_process(folder, "export", "first", "--to", "torchrun", "--output", "exported", "--json")
    written = [folder / path for path in ended.json["files"]]
    assert {path.name for path in written} == {path.name for path in (folder / "exported").iterdir()}
    launch = folder / "exported" / "launch.sh"
    assert os.access(launch, os.X_OK)
    subprocess.run(["bash", "-n", launch], check=True)


@pytest.mark.usefixtures("tuned")
def test_the_same_again_is_only_confirmed(folder: Path):
    again = run_process(folder, *tune("again", 3), "--json")
    trials = run_process(folder, "trials", "again", "--json").json["trials"]
    assert again.json["recommendation"]["evidence"] == "confirmed"
    assert [trial["reused_from"] for trial in trials] == ["first"] * 3
    assert sum("as job first measured it" in line for line in again.err.splitlines()) == 3


def test_a_job_that_was_stopped_twice_goes_on_where_it_was(folder: Path):
    stopped = stop(folder, [*tune("stopped", 2), "--fresh"], "trial 0: ", signal.SIGINT)
    assert stopped.code == 130
    assert stopped.err == "autotune: interrupted; `autotune resume stopped` goes on\n"
    again = stop(folder, ["resume", "stopped"], "job stopped", signal.SIGTERM)
    assert again.code == 130
    assert again.err == stopped.err
    (status,) = [
        job["status"] for job in run_process(folder, "jobs", "--json").json["jobs"] if job["job"] == "stopped"
    ]
    assert status == "paused"
    answer = run_process(folder, "resume", "stopped", "--json").json
    assert answer["status"] == "finished"
    assert answer["recommendation"]["evidence"] == "confirmed"
    assert answer["counts"]["measured"] + answer["counts"]["outpaced"] == 2
    assert answer["spent"]["trials"] == 2


def stop(folder: Path, words: list[str], when: str, number: signal.Signals) -> Ended:
    """Send the signal as soon as a line of its progress begins with `when`."""
    with subprocess.Popen(
        [AUTOTUNE, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        seen = next((line for line in process.stdout if line.startswith(when)), "")
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert seen, err
    return Ended(process.returncode, out, err)


@pytest.mark.parametrize("words", [["models"], ["models", "--json"], ["spaces", "cpu"]])
def test_a_reader_that_has_gone_is_no_error(folder: Path, words: list[str]):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [AUTOTUNE, *words], cwd=folder, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert done.stderr == ""
