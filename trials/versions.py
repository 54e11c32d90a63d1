"""`python -P -m trials.versions cpu|cuda`: what a measurement here depends on besides its configuration.

Prints a Versions as JSON.
"""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from trials.contract.constants import PROTOCOL_VERSION
from trials.contract.messages import DeviceKind, Versions
from trials.devices import Device, open_device


def versions_of(device: Device, kind: DeviceKind) -> Versions:
    return Versions(
        device_name=device.name,
        driver=device.driver,
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=version("transformers"),
        deepspeed=_installed("deepspeed"),
        torchao=_installed("torchao"),
        peft=_installed("peft"),
        bitsandbytes=_installed("bitsandbytes"),
        nccl=".".join(map(str, torch.cuda.nccl.version())) if kind == "cuda" else None,
        protocol=PROTOCOL_VERSION,
    )


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    kind: DeviceKind = "cuda" if sys.argv[1] == "cuda" else "cpu"
    print(versions_of(open_device(kind, 0), kind).to_json())


if __name__ == "__main__":
    main()
