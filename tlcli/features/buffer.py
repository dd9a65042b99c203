"""A buffer for features in memory, or in a mapped file where they are large."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tlcli.features.cache import FeatureCache
from tlcli.runtime.mapped_tensor import empty_or_mapped

ROWS_PER_COPY = 256
"""Rows that are copied at a time."""


class FeatureBuffer:
    """A buffer of n rows that arrive in any order.

    Attributes:
        rows: [n, ...], in memory or mapped from a file in the cache's folder; None before the
            first rows, which set the shape and type.
    """

    def __init__(self, n: int, cache: FeatureCache | None) -> None:
        self.n = n
        self.cache = cache
        self.rows: Tensor | None = None

    def put(self, indices: Sequence[int], values: Tensor) -> None:
        """Store `values`, [len(indices), ...], as the rows at `indices`."""
        if self.rows is None:
            self.rows = empty_or_mapped((self.n, *values.shape[1:]), values.dtype, self.cache)
        self.rows[torch.tensor(indices)] = values

    def tensor(self, n: int, views: int, kept: Tensor) -> Tensor:
        """Return the rows of the images where `kept`, bool [n], is true: [n kept, views, ...].

        The rows move within the buffer, so call this once, when it is full.
        """
        if self.rows is None:
            return torch.empty(0, views, 0)
        features = self.rows.view(n, views, *self.rows.shape[1:])
        if kept.all():
            return features
        done = 0
        # In chunks: one assignment would build a second copy in memory beside the mapped file.
        for chunk in kept.nonzero()[:, 0].split(ROWS_PER_COPY):
            features[done : done + len(chunk)] = features[chunk]
            done += len(chunk)
        return features[:done]
