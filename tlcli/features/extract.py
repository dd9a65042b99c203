"""Features of a frozen prefix, computed once per view of an image and cached."""

import os
import time
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path

import torch
from torch import Tensor

from tlcli.data.dataset import Sample
from tlcli.data.loader import ImageBatch, load_batches
from tlcli.features.buffer import ROWS_PER_COPY, FeatureBuffer
from tlcli.features.cache import FeatureCache
from tlcli.features.extractor import FeatureExtractor
from tlcli.features.views import PLAIN_VIEW_ONLY, Views
from tlcli.reporter import Reporter
from tlcli.runtime.distributed.sharding import sharded
from tlcli.runtime.workers import compute_in_parallel
from tlcli.text import format_duration

FORECAST_AFTER_BATCHES = 4
"""Batches whose time the remaining time is forecast from."""
MIN_FORECAST_SECONDS = 60
"""Seconds that must remain for the forecast to be reported."""


def extract_features(
    samples: Sequence[Sample],
    extractor: FeatureExtractor,
    *,
    task: str,
    views: Views = PLAIN_VIEW_ONLY,
    cache: FeatureCache | None = None,
    reporter: Reporter,
) -> tuple[Tensor, Tensor, dict[Path, str]]:
    """Compute the features of every view of every image.

    Rows that `cache` holds are read from it, and new ones are added to it. An image is decoded
    once for all of its views.

    Args:
        task: The name that progress is reported under.

    Returns:
        The features of the readable images, [n, views, ...] of the extractor's type (where they
        are large, mapped from an unnamed file in the cache's folder); their labels, int64 [n];
        and the reason for each unreadable image, by path.
    """
    [features], labels, unreadable = extract_features_each(
        samples, [extractor], task=task, views=views, cache=cache, reporter=reporter
    )
    return features, labels, unreadable


@sharded
def extract_features_each(
    samples: Sequence[Sample],
    extractors: Sequence[FeatureExtractor],
    *,
    task: str,
    views: Views = PLAIN_VIEW_ONLY,
    cache: FeatureCache | None = None,
    reporter: Reporter,
) -> tuple[list[Tensor], Tensor, dict[Path, str]]:
    """Run `extract_features` for several extractors on the same pixels, decoded only once."""
    row_ids = [views.view_id(sample, view) for sample in samples for view in range(views.n)]
    for extractor in extractors:
        extractor.choose_precision(cache)
    stores = [_RowStore(extractor, row_ids, cache) for extractor in extractors]
    cached, missing = array("q"), array("q")  # a fifth of a list's memory
    for row in range(len(row_ids)):
        (cached if all(store.is_cached(row) for store in stores) else missing).append(row)
    if cached:
        reporter.note(f"{task}: {len(cached):,} of {len(row_ids):,} views read from the cache")
        for store in stores:
            store.load(cached)
    unreadable = _compute_rows(samples, missing, stores, views, task, reporter)
    for store in stores:
        store.flush()
    readable = torch.tensor([s.path not in unreadable for s in samples], dtype=torch.bool)
    features = [store.buffer.tensor(len(samples), views.n, readable) for store in stores]
    labels = torch.tensor([s.label for s in samples], dtype=torch.int64)
    return features, labels if readable.all() else labels[readable], unreadable


class _RowStore:
    """One extractor's rows: collected in a buffer, read from its cache table and added to it."""

    def __init__(
        self, extractor: FeatureExtractor, row_ids: Sequence[bytes], cache: FeatureCache | None
    ) -> None:
        key = extractor.key()
        self.extractor = extractor
        self.row_ids = row_ids
        self.table = cache.table(key) if cache is not None and key is not None else None
        self.buffer = FeatureBuffer(len(row_ids), cache)

    def is_cached(self, row: int) -> bool:
        """Return whether the cache table holds this row."""
        return self.table is not None and self.row_ids[row] in self.table

    def load(self, rows: Sequence[int]) -> None:
        """Copy rows from the cache table into the buffer."""
        for start in range(0, len(rows), ROWS_PER_COPY):
            chunk = list(rows[start : start + ROWS_PER_COPY])
            if self.table is not None:
                self.buffer.put(chunk, self.table.fetch([self.row_ids[row] for row in chunk]))

    def put(self, rows: Sequence[int], features: Tensor, readable: Sequence[int]) -> None:
        """Keep the features of `rows`, [len(rows), ...]; those at `readable` go to the cache."""
        self.buffer.put(rows, features)
        if self.table is not None and not self.table.cache.broken:
            self.table.add([self.row_ids[rows[k]] for k in readable], features[readable])

    def flush(self) -> None:
        """Write what the cache table has not written yet."""
        if self.table is not None:
            self.table.flush()


def _compute_rows(
    samples: Sequence[Sample],
    missing: Sequence[int],
    stores: Sequence[_RowStore],
    views: Views,
    task: str,
    reporter: Reporter,
) -> dict[Path, str]:
    """Compute the `missing` rows of every store; return why images are unreadable, by path."""
    compute = stores[0].extractor.compute

    def compute_batch(batch: ImageBatch) -> tuple[list[Tensor], ImageBatch]:
        pixels, problems = batch
        return [store.extractor(pixels)[: len(problems)].cpu() for store in stores], batch

    unreadable: dict[Path, str] = {}
    done, started, remaining = 0, time.perf_counter(), iter(missing)
    reporter.progress(task, 0, len(missing))
    batches = _load_missing(samples, missing, stores[0].extractor, views)
    for outputs, (_, problems) in compute_in_parallel(compute_batch, batches, compute):
        rows = list(islice(remaining, len(problems)))
        readable = [k for k, problem in enumerate(problems) if problem is None]
        for store, features in zip(stores, outputs, strict=True):
            store.put(rows, features, readable)
        unreadable |= {p.path: p.reason for p in problems if p is not None}
        before, done = done, done + len(problems)
        reporter.progress(task, done, len(missing))
        if before < FORECAST_AFTER_BATCHES * compute.batch_size <= done:
            seconds = (time.perf_counter() - started) * (len(missing) / done - 1)
            if seconds >= MIN_FORECAST_SECONDS:
                reporter.note(
                    f"{task}: about {format_duration(seconds)} for {len(missing):,} views"
                )
    return unreadable


def _load_missing(
    samples: Sequence[Sample], missing: Sequence[int], extractor: FeatureExtractor, views: Views
) -> Iterator[ImageBatch]:
    """Load the pixels of the `missing` rows, each image decoded once for all of its views."""

    def by_image() -> Iterator[tuple[int, Iterator[int]]]:
        return groupby(missing, lambda row: row // views.n)

    return load_batches(
        (samples[i].path for i, _ in by_image()),
        extractor.preprocessing,
        batch_size=extractor.compute.batch_size,
        augmentation=views.augmentation,
        keys=(
            [views.view_key(samples[i], row % views.n) for row in rows] for i, rows in by_image()
        ),
    )


def bytes_per_view(extractor: FeatureExtractor) -> int:
    """Return the bytes that the features of one view take."""
    side = extractor.preprocessing.crop
    black = torch.zeros(1, 3, side, side, device=extractor.compute.device)
    # By the plain stages: the fast ones are checked on their first batch, which must be a real one.
    with torch.no_grad():
        return extractor.stages(black).numel() * extractor.dtype.itemsize


def features_memory_limit() -> int:
    """Return the bytes that features may take without a cache: a third of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 3
