"""One node's ranks: whatever becomes of them is a report, and nothing of them is left."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scripted_node import MIB, REQUESTS

from trials.contract.messages import RankReport

SCRIPTED = Path(__file__).with_name("scripted_node.py")
PATHS = ":".join(map(str, (SCRIPTED.parents[1], SCRIPTED.parents[2])))


def play(scenario: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-P", SCRIPTED, scenario, folder],
        env={"PYTHONPATH": PATHS},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def reports(scenario: str, folder: Path) -> list[RankReport]:
    return [RankReport.parse(report) for report in play(scenario, folder)["reports"]]


WATCHED = "killed from outside (SIGKILL); the machine may have run out of memory"
PEER = "ended because another rank had failed"


@pytest.mark.parametrize(
    ("scenario", "first", "second"),
    [
        ("report", "measured done None", "measured done None"),
        ("abort", "measured done None", "crashed warm_up ended by SIGABRT"),
        ("segfault", "measured done None", "crashed warm_up ended by SIGSEGV"),
        ("kill", "measured done None", f"crashed warm_up {WATCHED}"),
        ("exit", "measured done None", "crashed warm_up exited with 7 without a report"),
        ("end", "measured done None", "crashed warm_up exited with 0 without a report"),
        ("raise", "measured done None", "crashed warm_up exited with 1 without a report"),
        ("say", "measured done None", "crashed warm_up exited with 3 without a report"),
        ("cut", *2 * ("crashed build exited with 4 without a report",)),
        ("abort_late", "measured done None", "measured done None"),
        ("wait", f"interrupted measure {PEER}", "crashed start exited with 7 without a report"),
        ("deadline", *2 * ("timed_out measure not done after 2 s",)),
        ("cancel", *2 * ("interrupted measure cancelled",)),
        ("interrupt", "measured done None", "measured done None"),
        ("orphan", "measured done None", "measured done None"),
    ],
)
def test_what_becomes_of_a_rank_is_reported(scenario: str, first: str, second: str, tmp_path: Path) -> None:
    answer = play(scenario, tmp_path)
    said = [f"{r['outcome']} {r['phase']} {r['reason']}" for r in answer["reports"]]
    assert said == [first, second]
    assert [r["rank"] for r in answer["reports"]] == [0, 1]
    assert answer["left"] == []


def test_a_rank_beyond_the_ceiling_is_out_of_memory_and_held_more(tmp_path: Path) -> None:
    _, beyond = reports("fill", tmp_path)
    ceiling_bytes = REQUESTS["fill"]["ceiling_bytes"]
    assert (beyond.outcome, beyond.phase) == ("out_of_memory", "warm_up")
    assert beyond.reason is not None
    assert beyond.reason.endswith(f"over the ceiling of {ceiling_bytes / MIB:.1f} MiB")
    assert beyond.memory is not None
    assert beyond.memory.device_bytes > ceiling_bytes


def test_the_detail_is_the_end_of_what_a_rank_wrote(tmp_path: Path) -> None:
    _, talkative = reports("say", tmp_path)
    assert talkative.detail == "x" * (4000 - len(" the end")) + " the end"


def test_an_exception_that_nobody_caught_is_in_the_detail(tmp_path: Path) -> None:
    _, failed = reports("raise", tmp_path)
    assert failed.detail is not None
    assert failed.detail.endswith("RuntimeError: nobody caught this\n")


def test_a_rank_that_cannot_be_made_takes_the_others_with_it(tmp_path: Path) -> None:
    assert play("no_second_rank", tmp_path) == {"error": "no process can be made", "left": []}
