"""What every benchmark result says about where it was measured."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("autotune", "torch", "transformers", "deepspeed", "ray", "optuna", "sqlalchemy", "numpy")
RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Hardware and versions."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def save(name: str, result: dict[str, Any], measured_on: dict[str, Any] | None = None) -> Path:
    """Write results/NAME.json; `measured_on` is the `machine()` of before, where nothing is measured anew."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": measured_on or machine(), **result}, indent=2) + "\n")
    return path


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
