"""What a probe on this machine would be measured with, told without running one."""

import os
import subprocess
import sys
from collections.abc import Mapping

from autotune.execution.environment import probe_environment
from trials.contract.message import ContractError
from trials.contract.messages import DeviceKind, Versions

TIMEOUT_S = 120.0


def versions_here(device: DeviceKind, more: Mapping[str, str] | None = None) -> Versions | None:
    """None where a probe's environment cannot tell; `more` are further variables of its environment."""
    environment = probe_environment(os.environ, device) | dict(more or {})
    command = [sys.executable, "-P", "-m", "trials.versions", device]
    try:
        told = subprocess.run(command, env=environment, capture_output=True, timeout=TIMEOUT_S, check=True)
        return Versions.parse(told.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, IndexError, ContractError):
        return None
