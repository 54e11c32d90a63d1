"""The C library's malloc, told to give freed memory back: then what is resident is what is in use."""

import ctypes

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def give_back_from(threshold_bytes: int) -> None:
    """Blocks of `threshold_bytes` or more, and a heap's free end of as many, go back to the system.

    As under GLIBC_TUNABLES, which are read when a process starts. Only glibc has to be told, and can be.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, threshold_bytes)
        mallopt(_M_TRIM_THRESHOLD, threshold_bytes)
