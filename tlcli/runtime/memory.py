"""When memory runs out: the same work in smaller parts."""

import ctypes
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tlcli.errors import UserError

# The CPU's allocator, MPS's and CUDA's libraries raise a plain RuntimeError with such a text.
OUT_OF_MEMORY_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "alloc_failed",
)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether that is what it is about."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(
        sign in text for sign in OUT_OF_MEMORY_SIGNS
    )


class BatchLimit:
    """How many images at a time there is memory for.

    `rows` is None until memory ran out for the first time: as many as come.
    """

    def __init__(self, rows: int | None = None) -> None:
        self.rows = rows

    def halve(self, error: RuntimeError, rows: int) -> None:
        """After `error` with `rows` images at a time: half of them from now on.

        Raises:
            RuntimeError: `error` itself, where it is about something else.
            UserError: not even one image fits.
        """
        if not out_of_memory(error):
            raise error
        rows = min(rows, self.rows or rows)
        if rows <= 1:
            raise UserError(
                "memory ran out with one image at a time",
                "a smaller --model, a later --freeze, or end what else uses the memory",
            ) from error
        self.rows = -(-rows // 2)
        # What the failed attempt held lies in the allocator's cache, in pieces of the wrong size.
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


MAPPED_FROM = 32_000_000
"""Bytes from which remembered activations lie in a file that is mapped, not in memory."""


class Scratch(Protocol):
    """A folder that large tensors may be mapped from (the feature cache is one).

    `tolerate_write_errors` turns a full or unwritable disk into a warning.
    """

    folder: Path

    def tolerate_write_errors(self) -> AbstractContextManager[None]:
        """Go on after an `OSError` in the block."""


def empty_or_mapped(shape: Sequence[int], dtype: torch.dtype, scratch: Scratch | None) -> Tensor:
    """Return an uninitialized tensor, mapped from a nameless file in `scratch` where it is large.

    Where the disk is full it lies in memory after all.
    """
    values = torch.Size(shape).numel()
    if scratch is not None and values * dtype.itemsize >= MAPPED_FROM:
        with scratch.tolerate_write_errors():
            scratch.folder.mkdir(parents=True, exist_ok=True)
            # It has no name, so that it is gone when the process is, however that ends.
            with tempfile.TemporaryFile(dir=scratch.folder) as file:
                if hasattr(os, "posix_fallocate"):  # a full disk is told now, not by a bus error
                    os.posix_fallocate(file.fileno(), 0, values * dtype.itemsize)
                mapped = np.memmap(file, np.uint8, "r+", shape=(values * dtype.itemsize,))
            return torch.from_numpy(mapped).view(dtype).view(shape)
    return torch.empty(shape, dtype=dtype)


# From glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8


NEVER, MOST_OF_OLD = 2**31 - 1, 2**25
"""Bytes; before 2.35 a threshold of mapped blocks was refused above 32 MB."""


@cache
def keep_memory() -> bool:
    """Let glibc keep freed memory for this process; elsewhere nothing is done, and it is False.

    By itself it gives the large blocks of each batch back to the system, which fills new ones with
    zeros page by page: two fifths of the time of a training step and a quarter of that of a frozen
    pass (docs/decisions/speed-and-memory.md). All threads share one arena, since memory that is
    kept in another thread's is of no use.
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
