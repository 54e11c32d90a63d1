"""What the processes of a probe, and those of an exported launch script, find in their environment."""

from trials.contract.constants import engine_constants
from trials.contract.messages import DeviceKind

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def thread_variables(threads: int) -> dict[str, str]:
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def threads_per_rank(device: DeviceKind, ranks_per_node: int, cores: int) -> int:
    """How many threads the operators of one rank may use.

    On CPU a rank is one thread: ranks are what is scaled there. On CUDA the ranks of a node share its cores
    evenly, for they update the optimizer states in CPU memory. Launchers left alone give too few or too many
    (torchrun one thread, DeepSpeed's as many as there are cores to each rank), so launch.sh sets this too.
    """
    return 1 if device == "cpu" else max(1, cores // ranks_per_node)


def probe_variables() -> dict[str, str]:
    """The environment that the process which forks the ranks must have before it imports anything."""
    return {
        # It starts no threads, which would not survive the fork; each rank asks for its own after it.
        **thread_variables(1),
        # Nothing is looked up or downloaded.
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Asking whether there is CUDA must not initialise it in the process that forks.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        "PYTORCH_CUDA_ALLOC_CONF": engine_constants(0).cuda_allocator,
    }
