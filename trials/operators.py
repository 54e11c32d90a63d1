"""Operators that DeepSpeed compiles on first use, built ahead of any deadline.

They are loaded into the process that forks the ranks, so that no rank compiles or loads one itself.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trials.contract.capabilities import ENGINE_OF_SHARDING
from trials.contract.messages import ProbeRequest


def needed_operators(request: ProbeRequest) -> tuple[str, ...]:
    """Names of DeepSpeed's op builders that the probe will load."""
    if ENGINE_OF_SHARDING[request.config.sharding] != "zero":
        return ()
    names = []
    if request.device == "cpu":
        names.append("ShareMemCommBuilder")
    if request.config.offload in ("optimizer", "optimizer_and_parameters"):
        names.append("CPUAdamBuilder")
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
    for name in names:
        try:
            with _sole_builder():
                get_accelerator().create_op_builder(name).load(verbose=False)
        except Exception as error:  # of the compiler, the linker, the loader
            words = (str(error).strip() or type(error).__name__).splitlines()
            operator = name.removesuffix("Builder")
            raise OperatorUnavailable(
                f"DeepSpeed's {operator} cannot be compiled on this machine: {words[0][:200]}"
            ) from error


@contextmanager
def _sole_builder() -> Iterator[None]:
    """One process of this user compiles at a time, and a killed one blocks nobody.

    torch's own lock is a file whose holder may be dead, upon which everyone waits for ever. Ours ends with
    its process; whoever has it knows that such a file is stale.
    """
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "autotune.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in folder.glob("**/deepspeed_*/lock"):
            stale.unlink(missing_ok=True)
        yield
