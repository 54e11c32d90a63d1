"""Start `driver.py` as a process of its own."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from trials.contract.messages import ProbeRequest

SCRIPT = Path(__file__).with_name("driver.py")


@contextmanager
def driver(
    folder: Path, kind: Literal["local", "ray"], requests: Sequence[ProbeRequest]
) -> Iterator[subprocess.Popen[str]]:
    """A driver that runs these probes; it is killed at the latest when this ends."""
    files = [folder / f"{request.probe_id}.json" for request in requests]
    for file, request in zip(files, requests, strict=True):
        file.write_text(request.to_json())
    process = subprocess.Popen(
        [sys.executable, "-P", str(SCRIPT), kind, *map(str, files)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
