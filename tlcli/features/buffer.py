"""Where remembered activations lie: in memory, or where they are many in a file that is mapped."""

import os
import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tlcli.features.cache import FeatureCache

MAPPED_FROM = 32_000_000
"""Bytes from which remembered activations lie in a file that is mapped, not in memory."""
AT_ONCE = 256
"""Rows that are moved at once."""


class Store:
    """Rows [n, ...] that are put in any order: in memory, or of many in a mapped file."""

    def __init__(self, n: int, cache: FeatureCache | None) -> None:
        self.n = n
        self.cache = cache
        self.rows: Tensor | None = None

    def put(self, where: Sequence[int], values: Tensor) -> None:
        """Keep `values`, [len(where), ...]; the first say what shape and type all have."""
        if self.rows is None:
            self.rows = room((self.n, *values.shape[1:]), values.dtype, self.cache)
        self.rows[torch.tensor(where)] = values

    def tensor(self, n: int, views: int, kept: Tensor) -> Tensor:
        """The rows of the images that are `kept`, a bool [n], as [kept, views, ...]."""
        if self.rows is None:
            return torch.empty(0, views, 0)
        codes = self.rows.view(n, views, *self.rows.shape[1:])
        if kept.all():
            return codes
        done = 0
        for some in kept.nonzero()[:, 0].split(AT_ONCE):  # within the mapped file, not beside it
            codes[done : done + len(some)] = codes[some]
            done += len(some)
        return codes[:done]


def room(shape: Sequence[int], dtype: torch.dtype, cache: FeatureCache | None) -> Tensor:
    """An uninitialised tensor; a mapped file where it is large and the disk has room for it."""
    values = torch.Size(shape).numel()
    if cache is not None and values * dtype.itemsize >= MAPPED_FROM:
        with cache.trying():
            cache.folder.mkdir(parents=True, exist_ok=True)
            # It has no name, so that it is gone when the process is, however that ends.
            with tempfile.TemporaryFile(dir=cache.folder) as file:
                if hasattr(os, "posix_fallocate"):  # a full disk is told now, not by a bus error
                    os.posix_fallocate(file.fileno(), 0, values * dtype.itemsize)
                mapped = np.memmap(file, np.uint8, "r+", shape=(values * dtype.itemsize,))
            return torch.from_numpy(mapped).view(dtype).view(shape)
    return torch.empty(shape, dtype=dtype)
