"""Where training takes its activations from: remembered ones, or computed again each epoch."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tlcli.data.augmentation.mixup import Mixing, mix
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
from tlcli.reporter import Reporter
from tlcli.runtime.distributed.collectives import all_gather_dict, smallest_share
from tlcli.runtime.distributed.sharding import shard


@dataclass
class CachedFeatures:
    """Activations at the cut of n images.

    Attributes:
        codes: [m, views, ...] in the type that they were computed in, perhaps mapped from a file.
        labels: int64 [n].
        rows: which of the codes they are, int64 [n]; None: all.
    """

    codes: Tensor
    labels: Tensor
    seed: int = 0
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, order: Tensor, batch_size: int, epoch: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The images in `order`, each by a view drawn anew for the epoch: (codes, labels).

        The codes are float32 [batch_size, ...].
        """
        n, views = len(self), self.codes.shape[1]
        draw = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        view = torch.randint(views, (n,), generator=draw)
        for indices in order.split(batch_size):
            # Indexing copies, so that an in-place ReLU behind the cut cannot reach the codes.
            rows = indices if self.rows is None else self.rows[indices]
            yield self.codes[rows, view[indices]].float(), self.labels[indices]

    def own(self) -> Tensor:
        """The activations of its images, [n, views, ...]; a copy where they are not all."""
        return self.codes if self.rows is None else self.codes[self.rows]

    def part(self, chosen: Tensor) -> "CachedFeatures":
        """Some of the images, int64 [k], without a copy of their codes."""
        rows = chosen if self.rows is None else self.rows[chosen]
        return CachedFeatures(self.codes, self.labels[chosen], self.seed, rows)

    def plain(self, chosen: Tensor) -> "CachedFeatures":
        """The same with the plain view alone."""
        part = self.part(chosen)
        part.codes = part.codes[:, :1]
        return part


@dataclass
class RecomputedFeatures:
    """Activations at the cut, computed from the images each time they are asked for.

    The images must be readable; see `find_unreadable`. With `mixing` those of a batch are mixed,
    and the labels are shares of `n_classes` classes, float32 [n, n_classes].
    """

    samples: Sequence[Sample]
    forward: FeatureExtractor
    augmentation: Augmentation | None = None
    seed: int = 0
    mixing: Mixing | None = None
    n_classes: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> Tensor:
        """Of the samples, int64 [n]."""
        return torch.tensor([s.label for s in self.samples], dtype=torch.int64)

    def batches(
        self, order: Tensor, batch_size: int, epoch: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The images in `order`, augmented anew for the epoch: (activations, labels)."""
        samples = [self.samples[i] for i in order.tolist()]
        # Of all images and not of these: what is left of an epoch takes its batches as they were.
        batch_size = min(batch_size, max(1, len(self.samples)))
        labels = self.labels[order].split(batch_size)
        loaded = load_batches(
            [s.path for s in samples],
            self.forward.preprocessing,
            batch=batch_size,
            augmentation=self.augmentation,
            keys=[f"{self.seed}:{s.digest}:{epoch}" for s in samples],
        )
        for step, ((images, _), y) in enumerate(zip(loaded, labels, strict=True)):
            n = len(y)
            if self.mixing is not None:
                # by its first image and not its place: an epoch may begin in its middle
                first = samples[step * batch_size].digest
                rng = random.Random(f"{self.seed}:mixed:{first}:{epoch}")
                images[:n], y = mix(images[:n], y, self.n_classes, self.mixing, rng)
            yield self.forward(images)[:n].float(), y


FeatureSource = CachedFeatures | RecomputedFeatures


@dataclass(frozen=True)
class FeatureSources:
    """The training and validation activations, and the dataset without what cannot be read.

    Attributes:
        train: in the numbers of the run.
        val: in fp32 where it is remembered, since metrics are of that.
        val_mixed: the same in the numbers of the run; None where those are fp32.
    """

    train: FeatureSource
    val: FeatureSource
    dataset: Dataset
    remembered: bool
    val_mixed: FeatureSource | None = None


def make_sources(
    forward: FeatureExtractor,
    dataset: Dataset,
    *,
    views: int,
    augmentation: Augmentation | None,
    mixing: Mixing | None = None,
    seed: int,
    must_remember: bool,
    checked: bool,
    cache: FeatureCache | None = None,
    reporter: Reporter,
) -> FeatureSources:
    """Remember the activations where there is a frozen prefix and they fit; else recompute.

    Args:
        mixing: mix the training images, so that their activations must be computed again.
        must_remember: the head is solved on them all at once, so they have to fit.
        checked: every image is known to be readable.
        cache: where remembered activations are kept for the next run.
    """
    n = len(dataset.train) * views + len(dataset.val)
    frozen = len(forward.plain) > 0
    needed = n * bytes_per_view(forward) if frozen else 0
    limit = smallest_share(features_memory_limit() if cache is None else cache.limit)
    mixed = forward.compute.dtype is not None
    if not frozen or mixing or (needed > limit and not must_remember):
        if frozen and mixing:
            reporter.note("the images are mixed, so activations are computed again each epoch")
        elif frozen:
            reporter.note(
                f"the activations at the cut would take {needed / 1e9:.1f} GB (the limit is "
                f"{limit / 1e9:.1f} GB: --cache-limit), so they are computed again each epoch"
            )
        if not checked:
            samples = [*dataset.train, *dataset.val]
            dataset = without_unreadable(
                dataset,
                all_gather_dict(find_unreadable(shard([s.path for s in samples]), reporter)),
                reporter,
            )
        train = RecomputedFeatures(
            dataset.train, forward, augmentation, seed, mixing, len(dataset.classes)
        )
        if needed and needed <= limit:  # only the training images are mixed
            val, mixed_val, _ = _extract_val(dataset, forward, cache, reporter)
            return FeatureSources(train, val, dataset, False, mixed_val)
        every = RecomputedFeatures(dataset.val, forward)
        return FeatureSources(train, every, dataset, False, every if mixed else None)

    codes, labels, bad = extract_features(
        dataset.train,
        forward,
        task="features",
        views=views,
        augmentation=augmentation,
        seed=seed,
        cache=cache,
        reporter=reporter,
    )
    val, mixed_val, val_bad = _extract_val(dataset, forward, cache, reporter)
    bad |= val_bad
    left = without_unreadable(dataset, bad, reporter)
    kept = [[s for s in part if s.path not in bad] for part in (dataset.train, dataset.val)]
    if kept != [list(left.train), list(left.val)]:
        # A class lost its only val image, so another one took its place: rare, and small.
        return make_sources(
            forward,
            left,
            views=views,
            augmentation=augmentation,
            mixing=mixing,
            seed=seed,
            must_remember=must_remember,
            checked=True,
            cache=cache,
            reporter=reporter,
        )
    return FeatureSources(CachedFeatures(codes, labels, seed), val, left, True, mixed_val)


def _extract_val(
    dataset: Dataset, forward: FeatureExtractor, cache: FeatureCache | None, reporter: Reporter
) -> tuple[CachedFeatures, CachedFeatures | None, dict[Path, str]]:
    """The val activations in fp32 and in mixed precision (if any), and what is unreadable."""
    mixed = forward.compute.dtype is not None
    forwards = [forward.reference(), forward] if mixed else [forward]
    codes, labels, bad = extract_features_each(
        dataset.val, forwards, task="val features", cache=cache, reporter=reporter
    )
    val, *others = [CachedFeatures(each, labels) for each in codes]
    return val, others[0] if others else None, bad


def without_unreadable(
    dataset: Dataset, unreadable: dict[Path, str], reporter: Reporter
) -> Dataset:
    """The dataset without those images (path: why), its new warnings told."""
    if not unreadable:
        return dataset
    left = dataset.without(unreadable)
    for warning in left.warnings:
        if warning not in dataset.warnings:
            reporter.warn(warning)
    return left
