"""Running the command line: in this process where that says as much, as a process where it does not."""

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autotune.cli import main

AUTOTUNE = str(Path(sys.executable).with_name("autotune"))
TINY = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NO_SAMPLER = ("--sampler", "nosuch")
"""Ends a command that got past everything else, before anything is started."""


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What an error says; nothing else may be said on either stream."""
        assert self.out == ""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("autotune: ")
        return self.err.removeprefix("autotune: ").rstrip("\n")

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        assert self.code == 0, self.err
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


class Cli:
    """`autotune WORD...` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *words: object) -> Ended:
        self._monkeypatch.setattr(sys, "argv", ["autotune", *map(str, words)])
        handlers = {number: signal.getsignal(number) for number in STOPPING}
        self._capsys.readouterr()
        try:
            main()
        except SystemExit as end:
            captured = self._capsys.readouterr()
            return Ended(int(end.code or 0), captured.out, captured.err)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def run_process(folder: Path, *words: object, timeout_s: float = 120.0) -> Ended:
    done = subprocess.run(
        [AUTOTUNE, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def files_in(folder: Path) -> set[str]:
    """Everything below `folder`."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}
