"""The catalogue of known GPUs (gpus.toml): by the name people write, by the name a driver prints."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from autotune.errors import BadInput, NotHere
from autotune.hardware.inventory import Gpu
from trials.contract.message import nearest

LISTED_BY = "; `autotune gpus` lists those that are"
BRANDS = re.compile(r"nvidia|geforce|tesla|[^a-z0-9]")


@dataclass(frozen=True)
class Entry:
    """One row."""

    gpu: Gpu
    network_gb_per_s: float
    """Between nodes, per device and direction: an assumption about usual nodes."""


def entries() -> tuple[Entry, ...]:
    """All rows, in the order of the file."""
    return tuple(_entry(row) for row in _rows())


def find(name: str) -> Entry:
    """The row of a name or alias; case, brand and punctuation do not matter.

    Raises BadInput naming the nearest where there is none.
    """
    row = _row_by_name().get(_plain(name))
    if row is None:
        shown, names = name[:80], [row["name"] for row in _rows()]
        aliases = [alias for row in _rows() for alias in row["aliases"]]
        close = get_close_matches(shown.upper(), [*names, *aliases], n=1)
        raise BadInput(
            f"no GPU called {shown!r} is in the catalogue, though an inventory can describe one"
            f"{nearest(shown, close or names, otherwise=LISTED_BY)}"
        )
    return _entry(row)


def match(device_name: str) -> Entry | None:
    """The row of a name as the driver or a cluster prints it, or None."""
    row = _row_by_name().get(_plain(device_name))
    return None if row is None else _entry(row)


def require_same(gpu: Gpu, device_name: str) -> None:
    """Raise NotHere where a driver's name is that of another known GPU than the inventory's."""
    here, meant = match(device_name), match(gpu.name)
    if here is not None and meant is not None and here.gpu.name != meant.gpu.name:
        raise NotHere(
            f"the probes ran on {device_name}, not on the {gpu.name} of the inventory; say --gpus auto or "
            f"--gpus {here.gpu.name}, or use `autotune plan` for a forecast"
        )


def _plain(name: str) -> str:
    return BRANDS.sub("", name.lower())


@cache
def _rows() -> tuple[dict[str, Any], ...]:
    with Path(__file__).with_name("gpus.toml").open("rb") as file:
        return tuple(tomllib.load(file)["gpu"])


@cache
def _row_by_name() -> Mapping[str, dict[str, Any]]:
    return MappingProxyType(
        {
            _plain(name): row
            for row in _rows()
            for name in (row["name"], *row["aliases"], *row["device_names"])
        }
    )


def _entry(row: Mapping[str, Any]) -> Entry:
    gpu = Gpu(
        name=row["name"],
        kind="cuda",
        memory_bytes=int(row["memory_gib"] * 2**30),
        tflops=dict(row["tflops"]),
        bandwidth_gb_per_s=row["bandwidth_gb_per_s"],
        link_gb_per_s=row["link_gb_per_s"],
        pcie_gb_per_s=row["pcie_gb_per_s"],
        features=frozenset(row["features"]),
        source=row["source"],
    )
    return Entry(gpu, row["network_gb_per_s"])
