"""Where remembered activations lie: in memory, or where they are many in a file that is mapped."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tlcli.features.cache import FeatureCache
from tlcli.runtime.memory import empty_or_mapped

ROWS_AT_ONCE = 256
"""Rows that are moved at once."""


class FeatureBuffer:
    """Rows [n, ...] that are put in any order: in memory, or of many in a mapped file."""

    def __init__(self, n: int, cache: FeatureCache | None) -> None:
        self.n = n
        self.cache = cache
        self.rows: Tensor | None = None

    def put(self, where: Sequence[int], values: Tensor) -> None:
        """Keep `values`, [len(where), ...]; the first say what shape and type all have."""
        if self.rows is None:
            self.rows = empty_or_mapped((self.n, *values.shape[1:]), values.dtype, self.cache)
        self.rows[torch.tensor(where)] = values

    def tensor(self, n: int, views: int, kept: Tensor) -> Tensor:
        """The rows of the images that are `kept`, a bool [n], as [kept, views, ...]."""
        if self.rows is None:
            return torch.empty(0, views, 0)
        codes = self.rows.view(n, views, *self.rows.shape[1:])
        if kept.all():
            return codes
        done = 0
        for some in kept.nonzero()[:, 0].split(
            ROWS_AT_ONCE
        ):  # within the mapped file, not beside it
            codes[done : done + len(some)] = codes[some]
            done += len(some)
        return codes[:done]
