"""The C library's allocator, told to keep what one batch gave back for the next."""

import ctypes
import sys
from functools import cache

# From glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
NEVER = 2**31 - 1


@cache
def keep_memory() -> bool:
    """Let glibc keep freed memory for this process; elsewhere nothing is done, and it is False.

    By itself it gives the large blocks of each batch back to the system, which fills new ones with
    zeros page by page: about a third of the time of a training step or of a frozen pass. All
    threads share one arena, since memory that is kept in another thread's is of no use.
    """
    if not sys.platform.startswith("linux"):
        return False
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    if tell is None:  # another C library
        return False
    for option, value in ((TRIM_THRESHOLD, NEVER), (MMAP_THRESHOLD, NEVER // 2), (ARENA_MAX, 1)):
        tell(option, value)
    return True
