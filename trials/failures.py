"""What an exception inside a rank means: its type decides, or a table of words where there are only words."""

import errno

import torch
import torch.distributed as dist

from trials.ceiling import CeilingReached
from trials.contract.outcome import Outcome, Phase
from trials.devices import DeviceMissing
from trials.engines import EngineRefusal
from trials.measure import NonFinite
from trials.model import FactoryFailed, ModelUnusable

OUT_OF_MEMORY_WORDS = (
    "DefaultCPUAllocator",  # torch's CPU allocator: "can't allocate memory" or "not enough memory"
    "unable to mmap",  # torch's shared-memory storage
    "std::bad_alloc",  # C++ operators that translate no exception
    "bad allocation",
    "Cannot allocate memory",  # ENOMEM in the words of libc, gloo and DeepSpeed among them
    "CUDA out of memory",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "could not create a primitive",  # oneDNN, when its scratchpad finds no room
    "could not create a memory object",
)
"""Parts of the messages of RuntimeError that mean the device is full."""

LOST_PEER_WORDS = (
    "Connection closed by peer",  # gloo, when a rank has ended
    "Connection reset by peer",  # gloo, when it ended with something unread
    "Broken pipe",  # gloo, when writing to it
    "ncclRemoteError",
)
"""Parts of the messages of RuntimeError that mean another rank is gone."""

NON_FINITE_WORDS = ("loss scale already at minimum",)
"""Parts of what DeepSpeed's loss scaler says, in a plain Exception, when every step overflows."""

REFUSALS = (AssertionError, AttributeError, ImportError, KeyError, NotImplementedError, TypeError, ValueError)
"""Raised while building, these say that the engine or the model cannot be set up so, now or ever."""

OUR_OWN = (CeilingReached, DeviceMissing, EngineRefusal, ModelUnusable, NonFinite)
"""Exceptions whose message is a sentence, which the exception's name would only obscure."""


def origin(error: BaseException) -> BaseException:
    """What was raised first, where a library wraps it: a pipeline's schedule does, in RuntimeError."""
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error


def outcome_of(error: BaseException, phase: Phase) -> Outcome:
    error = origin(error)
    cause = error.__cause__ if isinstance(error, FactoryFailed) else error
    if _is_out_of_memory(cause):
        return Outcome.OUT_OF_MEMORY
    if isinstance(error, NonFinite) or any(words in str(error) for words in NON_FINITE_WORDS):
        return Outcome.NON_FINITE
    if isinstance(error, EngineRefusal | ModelUnusable):
        return Outcome.INVALID
    if phase == Phase.BUILD and isinstance(error, REFUSALS):
        return Outcome.INVALID
    return Outcome.CRASHED


def lost_peer(error: BaseException) -> bool:
    """Whether a rank failed only because another was gone."""
    error = origin(error)
    if isinstance(error, dist.DistNetworkError | dist.DistStoreError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in LOST_PEER_WORDS)


def _is_out_of_memory(error: BaseException | None) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):
        return isinstance(error, torch.OutOfMemoryError) or any(w in str(error) for w in OUT_OF_MEMORY_WORDS)
    return isinstance(error, MemoryError)


def reason_of(error: BaseException) -> str:
    """One line: the exception's name, unless it is ours, and the first line of what it says."""
    error = origin(error)
    name = type(error).__name__
    lines = str(error).strip().splitlines()
    if not lines:
        return name
    first = lines[0][:300]
    return first if isinstance(error, OUR_OWN) else f"{name}: {first}"
