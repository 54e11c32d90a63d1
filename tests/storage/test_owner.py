import os
import signal
import subprocess
import sys

from autotune.storage.owner import Owner

OWNER = "from autotune.storage.owner import Owner; print(Owner.current().to_json(), flush=True); "


def test_this_process_is_not_gone() -> None:
    owner = Owner.current()
    assert not owner.is_gone()
    assert Owner.parse(owner.to_json()) == owner
    assert str(owner) == f"process {os.getpid()} on {os.uname().nodename}"


def test_another_process_lives_is_killed_and_is_reaped() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER + "input()"], stdin=-1, stdout=-1, text=True
    ) as process:
        assert process.stdout is not None
        owner = Owner.parse(process.stdout.readline())
        assert not owner.is_gone()
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert owner.is_gone()  # a zombie: nobody has asked for its exit status yet
    assert owner.is_gone()


def test_a_process_id_that_came_round_is_someone_else() -> None:
    owner = Owner.current()
    assert owner.model_copy(update={"started_ticks": owner.started_ticks - 1}).is_gone()


def test_elsewhere_cannot_be_seen_from_here() -> None:
    nobody = Owner.current().model_copy(update={"pid": 2**22 + 1})
    assert nobody.is_gone()
    assert not nobody.model_copy(update={"host": "elsewhere"}).is_gone()
    assert not nobody.model_copy(update={"pid_space": "another container"}).is_gone()
