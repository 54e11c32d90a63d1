"""kill -9 of the driver at random moments: nothing is lost, measured twice, or left running."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from trials.contract.outcome import VERDICTS, Outcome

AUTOTUNE = str(Path(sys.executable).with_name("autotune"))
TRIALS = 4
TINY = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
SPACE = """
description: small and quick
dimensions:
  micro_batch_size: {min: 1, max: 4}
  sequence_length: 32
  precision: [fp32, bf16]
  sharding: [ddp, fsdp]
"""
ORPHAN_S = 10.0
LIBRARIES_OF_OURS = ("trials.supervisor", "trials.zygote", "ray::", "raylet", "gcs_server")


class Job:
    """One job in a database of its own, driven by processes that may be killed."""

    def __init__(self, folder: Path, executor: str) -> None:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(TINY))
        (folder / "space.yaml").write_text(SPACE)
        self.storage = f"sqlite:///{folder / 'jobs.db'}"
        self._options = [
            "--gpus", "cpu:2", "--executor", executor, "--space", str(folder / "space.yaml"),
            "--trials", str(TRIALS), "--name", "job",
        ]  # fmt: skip
        self._config = str(folder / "config.json")

    def start(self) -> subprocess.Popen[bytes]:
        """Begin the job, or go on with it where it was recorded already."""
        command = ["resume", "job"] if self.statuses() else ["tune", self._config, *self._options]
        return subprocess.Popen(
            [AUTOTUNE, *command, "--json", "--storage", self.storage],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def statuses(self) -> list[str]:
        return [job["status"] for job in self._ask("jobs")["jobs"]]

    def trials(self) -> list[dict]:
        return self._ask("trials", "job")["trials"]

    def _ask(self, *command: str) -> dict:
        answer = subprocess.run(
            [AUTOTUNE, *command, "--json", "--storage", self.storage],
            check=False,
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)


def started_by(pid: int) -> dict[int, float]:
    """Everything below a process, with when it began (pids come round)."""
    found = {}
    for process in psutil.Process(pid).children(recursive=True):
        try:
            found[process.pid] = process.create_time()
        except psutil.NoSuchProcess:
            continue
    return found


def alive(processes: dict[int, float], driver: int) -> list[str]:
    """Command lines of those that still run: of the tree, or of anybody who names the driver."""
    lines = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            is_of_tree = processes.get(process.pid) == process.create_time()
            names_driver = any(word in line for word in LIBRARIES_OF_OURS) and f" {driver} " in f"{line} "
            if process.status() != psutil.STATUS_ZOMBIE and (is_of_tree or names_driver):
                lines.append(line)
        except psutil.NoSuchProcess:
            continue
    return lines


def kill_at_random(job: Job, seconds: float) -> bool:
    """Start the job and kill its driver after so long; False when it had ended before. Checks for orphans."""
    driver = job.start()
    seen: dict[int, float] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until and driver.poll() is None:
        seen |= started_by(driver.pid)
        time.sleep(0.05)
    killed = driver.poll() is None
    if killed:
        driver.kill()
    else:
        assert driver.returncode == 0, driver.stderr.read()
    driver.communicate()
    until = time.monotonic() + ORPHAN_S
    while (left := alive(seen, driver.pid)) and time.monotonic() < until:
        time.sleep(0.2)
    assert left == []
    return killed


def check(job: Job) -> None:
    trials = job.trials()
    counted = [t for t in trials if t["outcome"] and VERDICTS[Outcome(t["outcome"])].counts]
    assert len(counted) <= TRIALS
    measured = Counter(
        json.dumps(t["config"], sort_keys=True) for t in trials if t["outcome"] == Outcome.MEASURED
    )
    assert set(measured.values()) <= {1}


def run_chaos(folder: Path, executor: str, kills: int, longest_s: float) -> None:
    rng = random.Random(20)
    done, number = 0, 0
    job = Job(folder / "0", executor)
    while done < kills:
        done += kill_at_random(job, rng.uniform(0.3, longest_s))
        if job.statuses():
            check(job)
        if job.statuses() == ["finished"]:
            number += 1
            job = Job(folder / str(number), executor)
    final = job.start()
    output, errors = final.communicate(timeout=300)
    assert final.returncode == 0, errors
    answer = json.loads(output)
    assert answer["status"] == "finished"
    assert answer["recommendation"]["evidence"] == "confirmed"
    assert answer["spent"]["trials"] == TRIALS
    check(job)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_twenty_kills(tmp_path, executor):
    run_chaos(tmp_path, executor, kills=20, longest_s=20.0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("executor", "kills"), [("local", 1), ("ray", 1)])
def test_a_few_kills(tmp_path, executor, kills):
    run_chaos(tmp_path, executor, kills=kills, longest_s=14.0)
