"""Well-known models by name: the configurations their authors published, one JSON file each."""

import json
from pathlib import Path
from typing import Any

from autotune.errors import BadInput
from trials.contract.message import nearest

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in FOLDER.glob("*.json")))


def load(name: str) -> dict[str, Any]:
    """Return the configuration of preset `name`; raise BadInput naming the nearest where there is none."""
    known = names()
    if name not in known:
        raise BadInput(f"there is no preset {name!r}{nearest(name, list(known))}")
    config: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return config
