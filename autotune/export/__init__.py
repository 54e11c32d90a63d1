"""A recommendation in the files of the tools people train with: one module per tool, behind one table."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from autotune.errors import BadInput, NotFound
from autotune.export import accelerate, deepspeed, torchrun
from autotune.export.target import Target
from trials.contract.message import nearest

__all__ = ["FORMATS", "Target", "accepting", "files", "require_format", "write"]

FORMATS: Mapping[str, Callable[[Target], dict[str, str]]] = MappingProxyType(
    {"deepspeed": deepspeed.files, "accelerate": accelerate.files, "torchrun": torchrun.files}
)
"""Tool → file name → text. Each raises BadInput for what the tool cannot run."""


def accepting(target: Target) -> list[str]:
    """The formats whose tool can run `target`."""
    accepted = []
    for name in FORMATS:
        with suppress(BadInput):
            files(name, target)
            accepted.append(name)
    return accepted


def require_format(format: str) -> None:
    """Raise NotFound for one that is none."""
    if format not in FORMATS:
        raise NotFound(f"unknown export format {format!r}{nearest(format, list(FORMATS))}")


def files(format: str, target: Target) -> dict[str, str]:
    """Name → text of the files of one format; raises NotFound for an unknown one, and BadInput for a
    configuration that the tool cannot run.
    """
    require_format(format)
    return FORMATS[format](target)


def write(format: str, target: Target, folder: Path) -> list[Path]:
    """Write the files of one format into `folder`, which is made where it is missing; return their paths.

    All of them are written or none; files of the same names are replaced. Raises as `files` does, and
    BadInput for a folder that cannot be written to.
    """
    texts = files(format, target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".autotune-", dir=folder) as staging:
            for name, text in texts.items():
                path = Path(staging, name)
                path.write_text(text)
                if path.suffix == ".sh":
                    path.chmod(path.stat().st_mode | 0o111)
            for name in texts:  # before the first rename: this is what could fail between two
                if (folder / name).is_dir():
                    raise IsADirectoryError(0, f"{name} is a folder there")
            for name in texts:
                Path(staging, name).replace(folder / name)
    except OSError as error:
        raise BadInput(f"cannot export to {folder}: {error.strerror}; choose another folder") from error
    return [folder / name for name in texts]
