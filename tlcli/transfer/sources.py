"""Where training takes its activations from: remembered ones, or computed again each epoch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tlcli.data.augment import Augmentation
from tlcli.data.dataset import Dataset, Sample
from tlcli.data.load import find_unreadable, load_batches
from tlcli.events import Reporter
from tlcli.transfer.agree import union
from tlcli.transfer.cache import FeatureCache
from tlcli.transfer.features import FrozenForward, bytes_per_view, memory_limit, remember
from tlcli.transfer.shares import mine


@dataclass
class Remembered:
    """Activations at the cut: `codes` float32 [n, views, ...], `labels` int64 [n]."""

    codes: Tensor
    labels: Tensor
    seed: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, order: Tensor, batch_size: int, epoch: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The images in `order`, each by a view drawn anew for the epoch: (codes, labels)."""
        n, views = self.codes.shape[:2]
        draw = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        view = torch.randint(views, (n,), generator=draw)
        for indices in order.split(batch_size):
            # Indexing copies, so that an in-place ReLU behind the cut cannot reach the codes.
            yield self.codes[indices, view[indices]], self.labels[indices]


@dataclass
class Recomputed:
    """Activations at the cut, computed from the images each time they are asked for.

    The images must be readable; see `find_unreadable`.
    """

    samples: Sequence[Sample]
    forward: FrozenForward
    augmentation: Augmentation | None = None
    seed: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    def batches(
        self, order: Tensor, batch_size: int, epoch: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The images in `order`, augmented anew for the epoch: (activations, labels)."""
        samples = [self.samples[i] for i in order.tolist()]
        batch_size = min(batch_size, max(1, len(samples)))
        labels = torch.tensor([s.label for s in samples], dtype=torch.int64).split(batch_size)
        loaded = load_batches(
            [s.path for s in samples],
            self.forward.preprocessing,
            batch=batch_size,
            augmentation=self.augmentation,
            keys=[f"{self.seed}:{s.digest}:{epoch}" for s in samples],
        )
        for (images, _), y in zip(loaded, labels, strict=True):
            yield self.forward(images)[: len(y)], y


Source = Remembered | Recomputed


@dataclass(frozen=True)
class Sources:
    """The training and validation activations, and the dataset without what cannot be read."""

    train: Source
    val: Source
    dataset: Dataset
    remembered: bool


def make_sources(
    forward: FrozenForward,
    dataset: Dataset,
    *,
    views: int,
    augmentation: Augmentation | None,
    seed: int,
    must_remember: bool,
    checked: bool,
    cache: FeatureCache | None = None,
    reporter: Reporter,
) -> Sources:
    """Remember the activations where there is a frozen prefix and they fit; else recompute.

    Args:
        must_remember: the head is solved on them all at once, so they have to fit.
        checked: every image is known to be readable.
        cache: where remembered activations are kept for the next run.
    """
    n = len(dataset.train) * views + len(dataset.val)
    frozen = len(forward.plain) > 0
    needed = n * bytes_per_view(forward) if frozen else 0
    if not frozen or (needed > memory_limit() and not must_remember):
        if frozen:
            reporter.note(
                f"the activations at the cut would take {needed / 1e9:.1f} GB (the limit is "
                f"{memory_limit() / 1e9:.1f} GB), so they are computed again each epoch"
            )
        if not checked:
            samples = [*dataset.train, *dataset.val]
            dataset = without(
                dataset, union(find_unreadable(mine([s.path for s in samples]), reporter)), reporter
            )
        train = Recomputed(dataset.train, forward, augmentation, seed)
        return Sources(train, Recomputed(dataset.val, forward), dataset, False)

    codes, labels, bad = remember(
        dataset.train,
        forward,
        task="features",
        views=views,
        augmentation=augmentation,
        seed=seed,
        cache=cache,
        reporter=reporter,
    )
    val_codes, val_labels, val_bad = remember(
        dataset.val, forward, task="val features", cache=cache, reporter=reporter
    )
    bad |= val_bad
    left = without(dataset, bad, reporter)
    kept = [[s for s in part if s.path not in bad] for part in (dataset.train, dataset.val)]
    if kept != [list(left.train), list(left.val)]:
        # A class lost its only val image, so another one took its place: rare, and small.
        return make_sources(
            forward,
            left,
            views=views,
            augmentation=augmentation,
            seed=seed,
            must_remember=must_remember,
            checked=True,
            cache=cache,
            reporter=reporter,
        )
    return Sources(Remembered(codes, labels, seed), Remembered(val_codes, val_labels), left, True)


def without(dataset: Dataset, unreadable: dict[Path, str], reporter: Reporter) -> Dataset:
    """The dataset without those images (path: why), its new warnings told."""
    if not unreadable:
        return dataset
    left = dataset.without(unreadable)
    for warning in left.warnings[len(dataset.warnings) :]:
        reporter.warn(warning)
    return left
