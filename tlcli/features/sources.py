"""Where training reads its features: from the cache, or computed again in every epoch."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tlcli.data.augmentation.mixup import Mixing, mix_batch
from tlcli.data.augmentation.spec import Augmentation
from tlcli.data.dataset import Dataset, Sample
from tlcli.data.loader import find_unreadable, load_batches
from tlcli.features.cache import FeatureCache
from tlcli.features.extract import (
    bytes_per_view,
    extract_features,
    extract_features_each,
    features_memory_limit,
)
from tlcli.features.extractor import FeatureExtractor
from tlcli.features.views import Views
from tlcli.reporter import Reporter
from tlcli.runtime.distributed.collectives import all_gather_dict, min_per_process
from tlcli.runtime.distributed.sharding import shard


@dataclass
class CachedFeatures:
    """Features of n images, kept for the whole training.

    Attributes:
        features: [m, views, ...] in the type they were computed in, possibly mapped from a file.
        labels: int64 [n].
        seed: Seed for drawing a view per image and epoch.
        rows: The n rows of `features` that belong to these images, int64 [n]; None: all of them.
    """

    features: Tensor
    labels: Tensor
    seed: int = 0
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, order: Tensor, batch_size: int, epoch: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (features, labels) of the images in `order`, one random view of each.

        The features are float32 [batch_size, ...]. The views are drawn again for every epoch.
        """
        n, views = len(self), self.features.shape[1]
        draw = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        view = torch.randint(views, (n,), generator=draw)
        for indices in order.split(batch_size):
            # Indexing copies, so an in-place ReLU after the cut cannot overwrite the cached rows.
            rows = indices if self.rows is None else self.rows[indices]
            yield self.features[rows, view[indices]].float(), self.labels[indices]

    def selected(self) -> Tensor:
        """Return the features of these images, [n, views, ...]; a copy unless they are all."""
        return self.features if self.rows is None else self.features[self.rows]

    def subset(self, indices: Tensor) -> "CachedFeatures":
        """Return the images at `indices`, int64 [k], without copying their features."""
        rows = indices if self.rows is None else self.rows[indices]
        return CachedFeatures(self.features, self.labels[indices], self.seed, rows)

    def plain_subset(self, indices: Tensor) -> "CachedFeatures":
        """Return the images at `indices`, int64 [k], in their plain view only."""
        subset = self.subset(indices)
        subset.features = subset.features[:, :1]
        return subset


@dataclass
class RecomputedFeatures:
    """Features that are computed from the images whenever they are read.

    The images must be readable; see `find_unreadable`. With `mixing`, the images of a batch are
    mixed, and a label is a probability per class, float32 [n, n_classes].
    """

    samples: Sequence[Sample]
    extractor: FeatureExtractor
    augmentation: Augmentation | None = None
    seed: int = 0
    mixing: Mixing | None = None
    n_classes: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> Tensor:
        """The samples' labels, int64 [n]."""
        return torch.tensor([s.label for s in self.samples], dtype=torch.int64)

    def batches(
        self, order: Tensor, batch_size: int, epoch: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (features, labels) of the images in `order`, augmented anew for every epoch."""
        samples = [self.samples[i] for i in order.tolist()]
        # Limited by all images, not by `order`: the rest of an epoch keeps its batches.
        batch_size = min(batch_size, max(1, len(self.samples)))
        labels = self.labels[order].split(batch_size)
        loaded = load_batches(
            [s.path for s in samples],
            self.extractor.preprocessing,
            batch_size=batch_size,
            augmentation=self.augmentation,
            keys=[f"{self.seed}:{s.digest}:{epoch}" for s in samples],
        )
        for step, ((images, _), y) in enumerate(zip(loaded, labels, strict=True)):
            n = len(y)
            if self.mixing is not None:
                # By the batch's first image, not its position: an epoch may resume in its middle.
                first = samples[step * batch_size].digest
                rng = random.Random(f"{self.seed}:mixed:{first}:{epoch}")
                images[:n], y = mix_batch(images[:n], y, self.n_classes, self.mixing, rng)
            yield self.extractor(images)[:n].float(), y


FeatureSource = CachedFeatures | RecomputedFeatures


@dataclass(frozen=True)
class FeatureSources:
    """The training and validation features, and the dataset without its unreadable images.

    Attributes:
        train: In the run's precision.
        val: In fp32 where they are cached, because metrics are computed in fp32.
        dataset: The readable images.
        cached: Whether the training features are cached.
        val_mixed: The validation features in the run's precision; None where that is fp32.
    """

    train: FeatureSource
    val: FeatureSource
    dataset: Dataset
    cached: bool
    val_mixed: FeatureSource | None = None


def make_sources(
    extractor: FeatureExtractor,
    dataset: Dataset,
    views: Views,
    *,
    mixing: Mixing | None = None,
    must_cache: bool,
    all_readable: bool,
    cache: FeatureCache | None = None,
) -> FeatureSources:
    """Cache the features if there is a frozen prefix and they fit; otherwise recompute them.

    Args:
        mixing: How to mix the training images, whose features cannot be cached then.
        must_cache: Whether all features are needed at once, by a solved head; they are cached
            whatever they take.
        all_readable: Whether every image is known to be readable.
        cache: Where features are kept for the next run; None keeps them in memory only.
    """
    frozen = len(extractor.stages) > 0
    n = len(dataset.train) * views.n + len(dataset.val)
    needed = n * bytes_per_view(extractor) if frozen else 0
    limit = min_per_process(features_memory_limit() if cache is None else cache.limit)
    if frozen and not mixing and (needed <= limit or must_cache):
        return _make_cached_sources(extractor, dataset, views, cache)
    if frozen:
        extractor.reporter.note(_why_recomputed(mixing, needed, limit))
    val_fits = frozen and needed <= limit  # only the training images are mixed
    if not all_readable:
        dataset = _without_unreadable_files(dataset, extractor.reporter)
    train = RecomputedFeatures(
        dataset.train, extractor, views.augmentation, views.seed, mixing, len(dataset.classes)
    )
    if val_fits:
        val, val_mixed, _ = _extract_val(dataset, extractor, cache)
        return FeatureSources(train, val, dataset, False, val_mixed)
    recomputed = RecomputedFeatures(dataset.val, extractor)
    mixed = extractor.compute.dtype is not None
    return FeatureSources(train, recomputed, dataset, False, recomputed if mixed else None)


def _why_recomputed(mixing: Mixing | None, needed: int, limit: int) -> str:
    """Explain why the features of a frozen prefix are not cached."""
    if mixing:
        return "the images are mixed, so features are computed again in every epoch"
    return (
        f"the features at the cut would take {needed / 1e9:.1f} GB (limit {limit / 1e9:.1f} GB: "
        "--cache-limit), so they are computed again in every epoch"
    )


def _make_cached_sources(
    extractor: FeatureExtractor, dataset: Dataset, views: Views, cache: FeatureCache | None
) -> FeatureSources:
    """Extract the training and validation features, and leave out what cannot be read."""
    reporter = extractor.reporter
    features, labels, unreadable = extract_features(
        dataset.train, extractor, task="features", views=views, cache=cache, reporter=reporter
    )
    val, val_mixed, unreadable_val = _extract_val(dataset, extractor, cache)
    unreadable |= unreadable_val
    readable = without_unreadable(dataset, unreadable, reporter)
    kept = [[s for s in part if s.path not in unreadable] for part in (dataset.train, dataset.val)]
    if kept != [list(readable.train), list(readable.val)]:
        # A class lost its only val image, so another one took its place: rare and small.
        return _make_cached_sources(extractor, readable, views, cache)
    train = CachedFeatures(features, labels, views.seed)
    return FeatureSources(train, val, readable, True, val_mixed)


def _extract_val(
    dataset: Dataset, extractor: FeatureExtractor, cache: FeatureCache | None
) -> tuple[CachedFeatures, CachedFeatures | None, dict[Path, str]]:
    """Extract the val features in fp32 and in mixed precision (if any), and what is unreadable."""
    mixed = extractor.compute.dtype is not None
    extractors = [extractor.reference(), extractor] if mixed else [extractor]
    features, labels, unreadable = extract_features_each(
        dataset.val, extractors, task="val features", cache=cache, reporter=extractor.reporter
    )
    val, *others = [CachedFeatures(each, labels) for each in features]
    return val, others[0] if others else None, unreadable


def _without_unreadable_files(dataset: Dataset, reporter: Reporter) -> Dataset:
    """Decode every image, shared among the processes, and leave out those that cannot be read."""
    paths = [s.path for s in (*dataset.train, *dataset.val)]
    unreadable = all_gather_dict(find_unreadable(shard(paths), reporter))
    return without_unreadable(dataset, unreadable, reporter)


def without_unreadable(
    dataset: Dataset, unreadable: dict[Path, str], reporter: Reporter
) -> Dataset:
    """Return the dataset without the `unreadable` images (reason by path); report new warnings."""
    if not unreadable:
        return dataset
    readable = dataset.without(unreadable)
    for warning in readable.warnings:
        if warning not in dataset.warnings:
            reporter.warn(warning)
    return readable
