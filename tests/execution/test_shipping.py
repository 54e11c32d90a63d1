"""Which files of a factory's folder travel, and where they arrive."""

from pathlib import Path

import pytest
from probes import factory_model, probe

from autotune.execution import shipping
from autotune.execution.shipping import placed, python_files
from trials.contract.messages import NodeShare


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_the_python_files_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, "mine.py", "package/deep/er.py", "weights.bin", ".git/hook.py", "__pycache__/x.py")
    write(tmp_path, "env/pyvenv.cfg", "env/lib/big.py")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    assert python_files(tmp_path) == {"mine.py": b"mine.py", "package/deep/er.py": b"package/deep/er.py"}
    assert python_files(tmp_path / "nowhere") == {}


def test_too_much_does_not_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.py", "b.py")
    monkeypatch.setattr(shipping, "MAX_BYTES", 7)
    assert python_files(tmp_path) is None
    monkeypatch.setattr(shipping, "MAX_BYTES", 8)
    assert python_files(tmp_path) is not None
    monkeypatch.setattr(shipping, "MAX_ENTRIES", 1)
    assert python_files(tmp_path) is None


def test_the_share_finds_them_where_they_are_written(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, "mine.py", "package/deep/er.py")
    share = NodeShare(request=probe(factory_model("mine:build", here)), rendezvous_port=1)
    files = python_files(here)
    assert files is not None
    moved = placed(share, files, there)
    assert moved.request.model.factory_path == str(there)
    assert python_files(there) == files
    assert share.request.model.factory_path == str(here)
