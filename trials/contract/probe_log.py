"""What a probe says while it runs, and what is kept of it, as text for people."""

import json
import os
from pathlib import Path
from typing import Any

from trials.contract.messages import ProbeResult

TAIL_BYTES = 4000
"""Of the output of each rank."""


def running_log(folder: Path) -> str:
    """How far each rank has come, and the end of what it printed; `folder` has its journal and log.

    Empty before a rank has begun.
    """
    parts = []
    for journal in sorted(folder.glob("rank-*.jsonl"), key=lambda path: int(path.stem.partition("-")[2])):
        parts.append(f"{journal.stem.replace('-', ' ')}: {_how_far(journal)}")
        if output := tail(journal.with_suffix(".log")):
            parts.append(output.rstrip())
    return "\n".join(parts)


def kept_log(result: ProbeResult) -> str:
    """Everything that is known of a probe that has ended."""
    parts = [f"{result.probe_id}: {result.outcome} in phase {result.phase} after {result.seconds:.1f} s"]
    if result.reason:
        parts.append(result.reason)
    if result.rank is not None:
        parts.append(f"decided by rank {result.rank}")
    parts += [f"{phase}: {seconds:.2f} s" for phase, seconds in result.phase_s.items()]
    if result.step_s:
        parts.append("steps: " + ", ".join(f"{seconds:.4g} s" for seconds in result.step_s))
    if result.losses:
        parts.append("losses: " + ", ".join(f"{loss:.6g}" for loss in result.losses))
    if result.versions is not None:
        found = result.versions.model_dump(exclude_none=True)
        parts.append(", ".join(f"{name} {value}" for name, value in found.items()))
    if result.throttled:
        parts.append(f"the device was throttled: {result.throttled}")
    parts += [text.rstrip() for text in (result.detail, result.output) if text]
    return "\n".join(parts) + "\n"


def tail(log: Path, limit: int = TAIL_BYTES) -> str | None:
    """The end of a file; None where there is nothing in it."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - limit))
            return file.read().decode(errors="replace") or None
    except FileNotFoundError:
        return None


def _how_far(journal: Path) -> str:
    entry: dict[str, Any] = {}
    for line in (tail(journal) or "").splitlines():
        try:
            found = json.loads(line)
        except ValueError:  # cut off at either end
            continue
        if isinstance(found, dict):
            entry = found
    if "outcome" in entry:
        return f"ended, {entry['outcome']}".replace("_", " ")
    phase = str(entry.get("phase", "starts")).replace("_", " ")
    return f"{phase}, step {entry['steps']}" if "steps" in entry else phase
