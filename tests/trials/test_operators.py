"""Compiled operators: who may compile, whose lock is stale, with which tools."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cpuinfo
import pytest
from torch.utils.cpp_extension import _get_build_directory
from torch.utils.file_baton import FileBaton

from trials.operators import ask_for_the_cpu_once, sole_builder, with_tools_of_python

Start = Callable[..., subprocess.Popen[bytes]]

OPERATOR = "cpu_adam"
WHILE_S = 0.6
"""Longer than it takes to find out that nobody holds a lock."""
SOON_S = 20.0


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch puts the lock of an operator by default."""
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return lock_of_torch()


def lock_of_torch() -> Path:
    return Path(_get_build_directory(OPERATOR, verbose=False)) / "lock"


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process; it has done its `code` when this returns, and then waits to be killed."""
    started = []

    def start(code: str, **options: object) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-c", f"import os, time\n{code}\nprint(flush=True)\ntime.sleep(600)"],
            stdout=subprocess.PIPE,
            **options,
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


class Builder(threading.Thread):
    """Becomes the sole builder as soon as it is let."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._has_its_turn = threading.Event()
        self.start()

    def run(self) -> None:
        with sole_builder(OPERATOR):
            self._has_its_turn.set()

    def has_its_turn(self, within_s: float) -> bool:
        return self._has_its_turn.wait(within_s)


def test_a_lock_that_nobody_holds_is_removed(lock: Path) -> None:
    lock.touch()
    with sole_builder(OPERATOR):
        assert not lock.exists()


def test_also_in_a_folder_that_the_user_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "chosen"))
    lock = lock_of_torch()
    lock.touch()
    with sole_builder(OPERATOR):
        assert not lock.exists()


def test_the_lock_of_another_operator_is_left_alone(lock: Path) -> None:
    other = lock.parent.with_name("another") / "lock"
    other.parent.mkdir()
    other.touch()
    with sole_builder(OPERATOR):
        assert other.exists()


def test_a_lock_that_torch_holds_is_waited_for(lock: Path) -> None:
    baton = FileBaton(lock)
    assert baton.try_acquire()
    builder = Builder()
    assert not builder.has_its_turn(WHILE_S)
    assert lock.exists()
    baton.release()
    assert builder.has_its_turn(SOON_S)


def test_a_lock_whose_holder_was_killed_is_removed(lock: Path, start: Start) -> None:
    holder = start(f"os.open({str(lock)!r}, os.O_CREAT | os.O_EXCL)")
    builder = Builder()
    assert not builder.has_its_turn(WHILE_S)
    assert lock.exists()
    holder.kill()
    assert builder.has_its_turn(SOON_S)
    assert not lock.exists()


def test_a_compiler_that_a_killed_holder_left_behind_is_waited_for(lock: Path, start: Start) -> None:
    lock.touch()
    compiler = start("", cwd=lock.parent)
    builder = Builder()
    assert not builder.has_its_turn(WHILE_S)
    assert lock.exists()
    compiler.kill()
    assert builder.has_its_turn(SOON_S)


def test_one_process_builds_at_a_time(lock: Path, start: Start) -> None:
    other = start(f"import trials.operators as o\nturn = o.sole_builder({OPERATOR!r})\nturn.__enter__()")
    builder = Builder()
    assert not builder.has_its_turn(WHILE_S)
    other.kill()
    assert builder.has_its_turn(SOON_S)


def test_the_ninja_of_this_python_comes_first(tmp_path: Path) -> None:
    """Two versions of it compile each other's work anew: neither reads the other's log."""
    other = tmp_path / "ninja"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.defpath}"
    assert shutil.which("ninja", path=path) == str(other)
    of_python = str(Path(sys.executable).with_name("ninja"))
    assert shutil.which("ninja", path=with_tools_of_python(path)) == of_python
    assert with_tools_of_python(with_tools_of_python(path)) == with_tools_of_python(path)


def test_the_cpu_is_asked_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(cpuinfo, "get_cpu_info", lambda: asked.append("vendor") or {"vendor_id_raw": "any"})
    ask_for_the_cpu_once()
    ask_for_the_cpu_once()
    assert cpuinfo.get_cpu_info() == {"vendor_id_raw": "any"}
    assert len(asked) == 1
