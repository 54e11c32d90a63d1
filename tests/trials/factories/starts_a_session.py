"""A model whose making leaves a process behind, in a session of its own; a file beside this one names it."""

import os
import subprocess
from pathlib import Path

from says_when_it_trains import Announcing


def build() -> Announcing:
    sleeper = subprocess.Popen(["sleep", "3600"], start_new_session=True)
    Path(__file__).with_name(f"sleeps-{os.environ['RANK']}-{sleeper.pid}").touch()
    return Announcing()
