"""What the processes of a probe, and those of an exported launch script, find in their environment."""

from trials.contract.constants import EngineConstants, engine_constants
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


def allocator_variables(device: DeviceKind, constants: EngineConstants) -> dict[str, str]:
    """How memory of tensors is allocated."""
    if device == "cuda":
        return {"PYTORCH_CUDA_ALLOC_CONF": constants.cuda_allocator}
    threshold = constants.cpu_mmap_threshold_bytes
    names = ("glibc.malloc.mmap_threshold", "glibc.malloc.trim_threshold")
    return {
        "GLIBC_TUNABLES": ":".join(f"{name}={threshold}" for name in names),
        "THP_MEM_ALLOC_ENABLE": str(int(constants.cpu_huge_pages)),
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": str(constants.cpu_kept_primitives),
        "LRU_CACHE_CAPACITY": str(constants.cpu_kept_primitives),
    }


def probe_variables(device: DeviceKind) -> dict[str, str]:
    """The environment that the process which forks the ranks must be started with."""
    return {
        # It starts no threads, which would not survive the fork; each rank asks for its own after it.
        **thread_variables(1),
        # Nothing is looked up or downloaded.
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # GPUs have the numbers that NVML gives them, by which they are chosen.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # Asking whether there is CUDA must not initialise it in the process that forks.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        **allocator_variables(device, engine_constants(0)),
    }
