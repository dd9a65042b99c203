"""glibc's memory allocator, told to keep freed memory."""

import ctypes
import sys
from functools import cache

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8

_NEVER_TRIM = 2**31 - 1  # bytes
_MAX_MMAP_THRESHOLD = 2**30 - 1  # bytes
_OLD_MAX_MMAP_THRESHOLD = 2**25  # bytes; glibc before 2.35 refuses more


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for this process; return False, and do nothing, without glibc.

    By default it returns the large blocks of each batch to the system, which fills new ones with
    zeros page by page: two fifths of the time of a training step and a quarter of that of a frozen
    pass (docs/decisions/speed-and-memory.md). All threads share one arena, because memory that is
    kept in another thread's arena is of no use.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    if not mallopt(_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD):
        mallopt(_MMAP_THRESHOLD, _OLD_MAX_MMAP_THRESHOLD)
    mallopt(_TRIM_THRESHOLD, _NEVER_TRIM)
    mallopt(_ARENA_MAX, 1)
    return True
