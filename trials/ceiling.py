"""What a rank holds, held against the ceiling that it was given.

CUDA's allocator refuses what goes beyond. On CPU nothing inside a process can: under a resource limit
(RLIMIT_DATA) it is often a thread or an operator's scratch memory that finds no room, and gloo, oneDNN and
DeepSpeed answer that with an abort or a segmentation fault. So there the resident set is watched from
outside, and the rank ended when it is beyond.
"""

import os
from pathlib import Path

CHECK_S = 0.01
"""How often the resident sets are looked at; a core touches some 20 MiB of new pages in that time."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class CeilingReached(MemoryError):
    """A rank holds more than the ceiling, or the process does before there is any model."""

    def __init__(self, held_bytes: int, ceiling_bytes: int) -> None:
        held, ceiling = held_bytes / 2**20, ceiling_bytes / 2**20
        super().__init__(f"{held:.1f} MiB are held, over the ceiling of {ceiling:.1f} MiB")


def resident_bytes(pid: int) -> int:
    """The resident set of a process; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0
