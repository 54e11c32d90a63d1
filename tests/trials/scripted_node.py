"""Two ranks that do as they are told: `python -P scripted_node.py SCENARIO FOLDER` prints their reports."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from probes import probe

from trials import node
from trials.contract.messages import NodeShare, RankReport
from trials.contract.outcome import Outcome, Phase
from trials.processes import adopt_orphans

MIB = 2**20
Script = Callable[[int, Path], object]


def say(journal: Path, line: str) -> None:
    with journal.open("a") as file:
        file.write(line)


def enter(journal: Path, phase: Phase) -> None:
    say(journal, f'{{"phase": "{phase}"}}\n')


def report(rank: int, journal: Path, outcome: Outcome = Outcome.MEASURED) -> None:
    say(journal, RankReport(rank=rank, outcome=outcome, phase=Phase.DONE).to_json() + "\n")


def sleep(rank: int, journal: Path) -> None:
    enter(journal, Phase.MEASURE)
    while True:
        time.sleep(1000)


def on_rank_1(act: Callable[[], object]) -> Script:
    """Rank 0 reports; rank 1 gets into its warm-up and does this."""

    def script(rank: int, journal: Path) -> None:
        if rank == 0:
            report(rank, journal)
        else:
            enter(journal, Phase.WARM_UP)
            act()

    return script


def ends_by(number: signal.Signals) -> Script:
    return on_rank_1(lambda: os.kill(os.getpid(), number))


def fails() -> None:
    raise RuntimeError("nobody caught this")


def fills_memory() -> None:
    held = [bytearray(os.urandom(1) * 20 * MIB) for _ in range(20)]
    time.sleep(1000)
    del held


def says_much() -> None:
    os.write(1, b"\xff\xfe" + b"x" * 100_000 + b" the end")
    os._exit(3)


def leaves_one_behind(rank: int, journal: Path) -> None:
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    report(rank, journal)


def is_cut_off(rank: int, journal: Path) -> None:
    enter(journal, Phase.BUILD)
    say(journal, '{"phase": "warm_')
    os._exit(4)


def reports_and_then_aborts(rank: int, journal: Path) -> None:
    report(rank, journal)
    os.abort()


def rank_0_waits_for_a_dead_peer(rank: int, journal: Path) -> None:
    if rank == 1:
        os._exit(7)
    sleep(rank, journal)


def ignores_interruptions(rank: int, journal: Path) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    report(rank, journal)


SCRIPTS: dict[str, Script] = {
    "report": report,
    "abort": ends_by(signal.SIGABRT),
    "segfault": ends_by(signal.SIGSEGV),
    "kill": ends_by(signal.SIGKILL),
    "exit": on_rank_1(lambda: os._exit(7)),
    "end": on_rank_1(lambda: None),
    "raise": on_rank_1(fails),
    "fill": on_rank_1(fills_memory),
    "say": on_rank_1(says_much),
    "cut": is_cut_off,
    "abort_late": reports_and_then_aborts,
    "wait": rank_0_waits_for_a_dead_peer,
    "deadline": sleep,
    "cancel": sleep,
    "orphan": leaves_one_behind,
    "interrupt": ignores_interruptions,
    "no_second_rank": sleep,
}
REQUESTS: dict[str, dict[str, Any]] = {
    "deadline": {"deadline_s": 2.0},
    "fill": {"ceiling_bytes": 200 * MIB},
}


def cancel_when_both_measure(folder: Path, cancel: int) -> None:
    while sum("measure" in journal.read_text() for journal in folder.glob("*.jsonl")) < 2:
        time.sleep(0.01)
    os.write(cancel, b"cancel\n")


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    adopt_orphans()
    node.GRACE_S = 0.3
    script = SCRIPTS[name]
    share = NodeShare(request=probe(**REQUESTS.get(name, {})), rendezvous_port=1)
    control, cancel = os.pipe()
    if name == "cancel":
        threading.Thread(target=cancel_when_both_measure, args=(folder, cancel)).start()
    if name == "no_second_rank":
        fork = os.fork
        os.fork = lambda: _fail() if psutil.Process().children() else fork()
    try:
        reports = node.run_ranks(share, folder, lambda share, rank, journal: script(rank, journal), control)
        answer: dict[str, Any] = {"reports": [r.model_dump(mode="json") for r in reports]}
    except OSError as error:
        answer = {"error": str(error)}
    answer["left"] = [p.name() for p in psutil.Process().children(recursive=True)]
    print(json.dumps(answer))


def _fail() -> int:
    raise OSError("no process can be made")


if __name__ == "__main__":
    main()
