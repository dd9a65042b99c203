"""Large tensors in a mapped file instead of memory."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

MIN_MAPPED_BYTES = 32_000_000
"""Size from which a tensor is mapped from a file."""


class ScratchFolder(Protocol):
    """A folder for the files of mapped tensors. The feature cache is one."""

    folder: Path

    def tolerate_write_errors(self) -> AbstractContextManager[None]:
        """Turn an `OSError` in the block into a warning."""


def empty_or_mapped(
    shape: Sequence[int], dtype: torch.dtype, scratch: ScratchFolder | None
) -> Tensor:
    """Return an uninitialized tensor, mapped from an unnamed file in `scratch` if it is large.

    It is in memory without `scratch`, and where the disk is full.
    """
    n_bytes = torch.Size(shape).numel() * dtype.itemsize
    if scratch is not None and n_bytes >= MIN_MAPPED_BYTES:
        with scratch.tolerate_write_errors():
            scratch.folder.mkdir(parents=True, exist_ok=True)
            # Without a name the file is gone when the process ends, however it ends.
            with tempfile.TemporaryFile(dir=scratch.folder) as file:
                if hasattr(os, "posix_fallocate"):  # A full disk raises now, not a bus error later.
                    os.posix_fallocate(file.fileno(), 0, n_bytes)
                mapped = np.memmap(file, np.uint8, "r+", shape=(n_bytes,))
            return torch.from_numpy(mapped).view(dtype).view(shape)
    return torch.empty(shape, dtype=dtype)
