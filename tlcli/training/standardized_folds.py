"""Standardized features for the solver, fold by fold and a chunk at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tlcli.metrics.linear_models import FOLDS, deal_folds, feature_scale

MAX_WORK_ON_ONE_THREAD = 50_000_000
"""Multiplications per step up to which one thread beats several that wait for each other."""
MAX_WORK_ON_ALL_FOLDS = 2_000_000_000
"""Multiplications per step up to which all folds are held out in turn; above it only one is."""
CHUNK_VALUES = 4_000_000
"""Values that are worked on at once."""
MAX_CACHED_BYTES = 1_000_000_000
"""Bytes of standardized features that are kept; more are standardized again in every step."""

Chunk = tuple[Tensor, Tensor]
"""Standardized features, float32 [m, views, d] or [m, d], and labels, int64 [m]."""


class StandardizedFolds:
    """Standardized features and their labels, dealt into folds.

    Attributes:
        features: the raw features, [n, views, d] of any float type.
        bias: whether the head has a bias; without one the features are scaled, but not centered.
        class_weights: the weight of an image of each class, float32 [classes].
        mean, scale: float32 [d], of the features.
        n_folds: the number of folds; 1: there are too few images to hold some out.
        n_held_out: the number of folds that are held out in turn.
        threads: the threads that a step is worth.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        n_classes: int,
        bias: bool,
        seed: int,
        class_weights: Tensor | None,
    ) -> None:
        self.features, self.labels, self.n_classes = features, labels, n_classes
        self.bias = bias
        ones = torch.ones(n_classes)
        self.class_weights = ones if class_weights is None else class_weights.float()
        largest_class = int(torch.bincount(labels, minlength=n_classes).max())
        self.n_folds = max(1, min(FOLDS, largest_class, len(labels)))
        self.fold_of = deal_folds(labels, self.n_folds, seed)
        work = features.numel() * n_classes
        one_fold = work >= MAX_WORK_ON_ALL_FOLDS
        self.n_held_out = min(1, self.n_folds) if one_fold else self.n_folds
        self.threads = 1 if work < MAX_WORK_ON_ONE_THREAD else torch.get_num_threads()
        self._rows = max(1, CHUNK_VALUES // (features.shape[1] * max(features.shape[2], n_classes)))
        self.mean, self.scale = self._moments()
        self._caches = features.numel() * 4 <= MAX_CACHED_BYTES
        self._cached: dict[int, list[Chunk]] = {}

    def images(self, fold: int) -> Tensor:
        """Return the images of a fold, int64 [m]."""
        return (self.fold_of == fold).nonzero()[:, 0]

    def chunks(self, held_out: int | None = None) -> Iterator[Chunk]:
        """Yield all views of all folds but one."""
        for fold in range(self.n_folds):
            if fold != held_out:
                yield from self._chunks_of(fold)

    def plain_views(self, fold: int) -> Iterator[Chunk]:
        """Yield the plain views of one fold."""
        for x, y in self._chunks_of(fold):
            yield x[:, 0], y

    def fill_cache(self) -> None:
        """Standardize everything that is cached, before threads ask for it at once."""
        for fold in range(self.n_folds if self._caches else 0):
            if fold not in self._cached:
                self._cached[fold] = list(self._standardize(fold))

    def _chunks_of(self, fold: int) -> Iterator[Chunk]:
        """Yield all views of one fold, cached where they fit."""
        self.fill_cache()
        return iter(self._cached[fold]) if self._caches else self._standardize(fold)

    def _standardize(self, fold: int) -> Iterator[Chunk]:
        """Standardize all views of one fold, a chunk at a time."""
        for images in self.images(fold).split(self._rows):
            x = self.features[images].float()
            yield x.sub_(self.mean).div_(self.scale), self.labels[images]

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean (zero without a bias) and the scale of all views, float32 [d]."""
        d = self.features.shape[2]
        count = self.features.shape[0] * self.features.shape[1]
        parts = self.features.split(self._rows)
        mean, square = torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
        if self.bias:
            for part in parts:
                mean += part.flatten(0, 1).double().sum(0)
            mean /= count
        for part in parts:
            square += (part.flatten(0, 1).double() - mean).square_().sum(0)
        return mean.float(), feature_scale((square / count).sqrt()).float()
