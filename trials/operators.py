"""Operators that DeepSpeed compiles on first use, built ahead of any deadline.

They are loaded into the process that forks the ranks, so that no rank compiles or loads one itself.
"""

import fcntl
import functools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from trials.contract.capabilities import ENGINE_OF_SHARDING
from trials.contract.messages import ProbeRequest

CHECK_S = 0.1
"""How often a lock of torch's is looked at."""


def needed_operators(request: ProbeRequest) -> tuple[str, ...]:
    """Names of DeepSpeed's op builders that the probe will load."""
    if ENGINE_OF_SHARDING[request.config.sharding] != "zero":
        return ()
    names = []
    if request.device == "cpu":
        names.append("ShareMemCommBuilder")
    if request.config.offload in ("optimizer", "optimizer_and_parameters"):
        names.append("CPULionBuilder" if request.config.optimizer == "lion" else "CPUAdamBuilder")
    return tuple(names)


class OperatorUnavailable(Exception):
    """An operator cannot be compiled on this machine; the message says which and why."""


def load_operators(names: tuple[str, ...]) -> None:
    """Compile what is not compiled yet (a minute each, once per machine), and load all of them.

    Raises OperatorUnavailable.
    """
    if not names:
        return
    import deepspeed.ops
    from deepspeed.accelerator import get_accelerator

    deepspeed.ops.__compatible_ops__  # noqa: B018  # found out on first access, by running a compiler
    os.environ["PATH"] = with_tools_of_python(os.environ.get("PATH", os.defpath))
    for name in names:
        builder = get_accelerator().create_op_builder(name)
        try:
            with sole_builder(builder.name):
                builder.load(verbose=False)
        except Exception as error:  # of the compiler, the linker, the loader
            words = (str(error).strip() or type(error).__name__).splitlines()
            operator = name.removesuffix("Builder")
            raise OperatorUnavailable(
                f"DeepSpeed's {operator} cannot be compiled on this machine: {words[0][:200]}"
            ) from error
    if "CPUAdamBuilder" in names:
        ask_for_the_cpu_once()


def ask_for_the_cpu_once() -> None:
    """Each CPUAdam asks cpuinfo for the vendor, which takes a second; the ranks inherit the answer."""
    import cpuinfo

    if not hasattr(cpuinfo.get_cpu_info, "cache_info"):
        cpuinfo.get_cpu_info = functools.cache(cpuinfo.get_cpu_info)
    cpuinfo.get_cpu_info()


def with_tools_of_python(path: str) -> str:
    """PATH with this Python's own ninja first, whether its environment is activated or not.

    Versions of ninja that do not read each other's logs would take turns in compiling everything anew.
    """
    folder = str(Path(sys.executable).parent)
    return os.pathsep.join([folder, *(entry for entry in path.split(os.pathsep) if entry != folder)])


@contextmanager
def sole_builder(operator: str) -> Iterator[None]:
    """Nobody else compiles `operator` here, and a killed process blocks nobody.

    torch's own lock is a file whose holder may be dead, upon which everyone waits for ever. Ours ends with
    its process; whoever has it clears torch's away, if that is stale.
    """
    from torch.utils.cpp_extension import get_default_build_root

    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "autotune.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for of_torch in folder.glob(f"**/{operator}/lock"):
            _wait_until_stale(of_torch.resolve())
        yield


def _wait_until_stale(lock: Path) -> None:
    """Wait until torch's lock is released, or remove it once nobody on this machine holds it.

    torch's FileBaton keeps the file open for as long as it holds it, and compilers run in its folder, also
    those that a killed holder left behind. Looked at twice, since a holder that releases the lock closes the
    file first and removes it then.
    """
    unheld = 0
    while lock.exists() and unheld < 2:
        unheld = 0 if _is_held(lock) else unheld + 1
        time.sleep(CHECK_S)
    lock.unlink(missing_ok=True)


def _is_held(lock: Path) -> bool:
    return any(_has_open(process, lock) for process in psutil.process_iter())


def _has_open(process: psutil.Process, lock: Path) -> bool:
    try:
        return process.cwd() == str(lock.parent) or str(lock) in (file.path for file in process.open_files())
    except psutil.Error:  # gone, or somebody else's
        return False
