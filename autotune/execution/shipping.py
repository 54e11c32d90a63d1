"""A user's factory on machines that do not have it: the Python files of its folder are sent along.

Ray's own way (`runtime_env` with a `working_dir`) takes a local folder for a whole connection only, which is
made before the model is known; and it leaves what it unpacked in its cache.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from trials.contract.messages import NodeShare

Files = Mapping[str, bytes]
"""Path below the folder → contents."""
MAX_BYTES = 20 * 2**20
MAX_ENTRIES = 20_000
"""A home directory is not walked to its end for each probe."""
LEFT_OUT = frozenset({"__pycache__", "node_modules", "site-packages"})


def python_files(folder: Path) -> Files | None:
    """The Python files below `folder`; None where they are too many to send.

    Hidden folders and virtual environments are left out, and so is what cannot be read.
    """
    files: dict[str, bytes] = {}
    size = entries = 0
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_left_out(Path(parent, name))]
        entries += len(folders) + len(names)
        for path in (Path(parent, name) for name in names if name.endswith(".py")):
            try:
                size += path.stat().st_size
                if size > MAX_BYTES:
                    return None
                files[str(path.relative_to(folder))] = path.read_bytes()
            except OSError:
                continue
        if entries > MAX_ENTRIES:
            return None
    return files


def placed(share: NodeShare, files: Files, folder: Path) -> NodeShare:
    """The same share with its factory imported from `folder`, where `files` are written; raises OSError."""
    for name, contents in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    model = share.request.model.model_copy(update={"factory_path": str(folder)})
    return share.model_copy(update={"request": share.request.model_copy(update={"model": model})})


def _is_left_out(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in LEFT_OUT or (folder / "pyvenv.cfg").exists()
