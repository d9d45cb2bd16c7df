"""Freed memory goes back to the machine, where the C library would keep it.

glibc maps large blocks one by one and unmaps them when they are freed; but with each that is freed it raises the size
from which it does so, up to 32 MiB. The tensors of a step then lie in heaps, with gaps that are never given back, while
the optimizer step and ZeRO's buckets want other memory beside them. Source: glibc manual, section Tunable Parameters.
"""

import ctypes

#: Blocks from this size on are mapped one by one. They are tensors for which torch asks for huge pages, so that making
#: them again costs a page fault for every 2 MiB; mapping all of smaller ones would cost time, and save little.
LARGE_BYTES = 4 << 20
#: Free bytes at the end of a heap that are kept; twice the former, as glibc itself has it.
SPARE_BYTES = 2 * LARGE_BYTES
#: Names of glibc's parameters, from ``malloc.h``.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def give_back_freed() -> bool:
    """From now on give large blocks of this process back when they are freed.

    Returns:
        Whether the C library can be told so: glibc can, others are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGE_BYTES) and mallopt(M_TRIM_THRESHOLD, SPARE_BYTES))
