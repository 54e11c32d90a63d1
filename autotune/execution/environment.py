"""What the processes of a probe find in their environment: an allow-list, and nothing else."""

from collections.abc import Mapping

from trials.contract.environment import probe_variables
from trials.contract.messages import DeviceKind

PASSED_ON = (
    "HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "TMPDIR", "TZ",
    "USER", "VIRTUAL_ENV", "XDG_CACHE_HOME",
)  # fmt: skip
PASSED_ON_PREFIXES = ("CUDA_", "GLOO_", "LC_", "NCCL_", "NVIDIA_", "TORCH_", "TORCHINDUCTOR_", "TRITON_")
"""A probe's environment is what is named here and nothing else; credentials stay with the driver."""

FOLDER_VARIABLE = "AUTOTUNE_PROBE_FOLDER"
"""Set to the supervisor's scratch folder, which marks everything that it ever started."""


def probe_environment(environment: Mapping[str, str], device: DeviceKind) -> dict[str, str]:
    """The environment of a supervisor, and so of everything that runs a probe."""
    passed = {k: v for k, v in environment.items() if k in PASSED_ON or k.startswith(PASSED_ON_PREFIXES)}
    return passed | probe_variables(device) | {"PYTHONUNBUFFERED": "1"}
