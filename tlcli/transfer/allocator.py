"""The C library's allocator, told to keep what one batch gave back for the next."""

import ctypes
import sys
from functools import cache

# From glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
NEVER, MOST_OF_OLD = 2**31 - 1, 2**25
"""Bytes; before 2.35 a threshold of mapped blocks was refused above 32 MB."""


@cache
def keep_memory() -> bool:
    """Let glibc keep freed memory for this process; elsewhere nothing is done, and it is False.

    By itself it gives the large blocks of each batch back to the system, which fills new ones with
    zeros page by page: two fifths of the time of a training step and a quarter of that of a frozen
    pass (docs/decisions.md). All threads share one arena, since memory that is kept in another
    thread's is of no use.
    """
    if not sys.platform.startswith("linux"):
        return False
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    if tell is None:  # another C library
        return False
    if not tell(MMAP_THRESHOLD, NEVER // 2):
        tell(MMAP_THRESHOLD, MOST_OF_OLD)
    tell(TRIM_THRESHOLD, NEVER)
    tell(ARENA_MAX, 1)
    return True
