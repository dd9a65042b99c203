"""The activations of a frozen prefix, computed once a view and remembered."""

import os
import time
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby, islice
from pathlib import Path

import torch
from torch import Tensor

from tlcli.data.augmentation.spec import Augmentation
from tlcli.data.dataset import Sample
from tlcli.data.loader import ImageBatch, load_batches
from tlcli.features.buffer import ROWS_AT_ONCE, FeatureBuffer
from tlcli.features.cache import CacheTable, FeatureCache, row_id
from tlcli.features.extractor import FeatureExtractor
from tlcli.reporter import Reporter
from tlcli.runtime.distributed.sharding import sharded
from tlcli.runtime.workers import map_in_workers
from tlcli.text import format_duration

FORECAST_AFTER = 4
"""Batches from whose time the rest is forecast."""
PLAIN_VIEW = "plain"
"""The view of an image that is not augmented."""


def extract_features(
    samples: Sequence[Sample],
    forward: FeatureExtractor,
    *,
    task: str,
    views: int = 1,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    cache: FeatureCache | None = None,
    reporter: Reporter,
) -> tuple[Tensor, Tensor, dict[Path, str]]:
    """Compute the activations of `views` views an image: the plain one, then augmented ones.

    What `cache` holds is not computed again, and what is computed goes there. An image is decoded
    once for all of its views.

    Returns:
        The activations of the readable images, [n, views, ...] of the forward's type (of many, a
        file below the cache's folder that is mapped and has no name), their labels, int64 [n],
        and why the other images were not readable.
    """
    [codes], labels, unreadable = extract_features_each(
        samples,
        [forward],
        task=task,
        views=views,
        augmentation=augmentation,
        seed=seed,
        cache=cache,
        reporter=reporter,
    )
    return codes, labels, unreadable


@sharded
def extract_features_each(
    samples: Sequence[Sample],
    forwards: Sequence[FeatureExtractor],
    *,
    task: str,
    views: int = 1,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    cache: FeatureCache | None = None,
    reporter: Reporter,
) -> tuple[list[Tensor], Tensor, dict[Path, str]]:
    """Run `extract_features` with several forwards on the same pixels, decoded only once."""
    n, compute = len(samples), forwards[0].compute
    labels = torch.tensor([s.label for s in samples], dtype=torch.int64)
    names = [view_id(s, augmentation, seed, view) for s in samples for view in range(views)]
    for forward in forwards:
        forward.choose_precision(cache)
    tables = [_table(forward, cache) for forward in forwards]
    todo, held = array("q"), array("q")  # a fifth of a list's memory
    for row, name in enumerate(names):
        there = all(table is not None and name in table for table in tables)
        (held if there else todo).append(row)
    if held:
        reporter.note(f"{task}: {len(held)} of {len(names)} views are in the cache")
    store = [FeatureBuffer(len(names), cache) for _ in forwards]
    for table, rows in zip(tables, store, strict=True):
        for some in _chunks(held, ROWS_AT_ONCE):
            if table is not None:
                rows.put(some, table.fetch([names[row] for row in some]))

    def missing() -> Iterator[tuple[int, Iterator[int]]]:
        """The images of which views are to be computed, and those views' rows."""
        return groupby(todo, lambda row: row // views)

    loaded = load_batches(
        (samples[i].path for i, _ in missing()),
        forwards[0].preprocessing,
        batch=compute.batch_size,
        augmentation=augmentation,
        keys=([view_key(samples[i], seed, row % views) for row in rows] for i, rows in missing()),
    )

    def compute_batch(batch: ImageBatch) -> tuple[list[Tensor], ImageBatch]:
        pixels, problems = batch
        return [forward(pixels)[: len(problems)].cpu() for forward in forwards], batch

    unreadable: dict[Path, str] = {}
    done, started, rest = 0, time.perf_counter(), iter(todo)
    reporter.progress(task, 0, len(todo))
    for outputs, (_, problems) in map_in_workers(compute_batch, loaded, compute):
        here = list(islice(rest, len(problems)))
        good = [k for k, problem in enumerate(problems) if problem is None]
        for table, rows, out in zip(tables, store, outputs, strict=True):
            rows.put(here, out)
            if table is not None and not table.cache.broken:
                table.add([names[here[k]] for k in good], out[good])
        unreadable |= {p.path: p.why for p in problems if p is not None}
        before, done = done, done + len(problems)
        reporter.progress(task, done, len(todo))
        if before < FORECAST_AFTER * compute.batch_size <= done:
            seconds = (time.perf_counter() - started) * (len(todo) / done - 1)
            if seconds >= 60:
                reporter.note(f"{task}: about {format_duration(seconds)} for {len(todo)} views")
    for table in tables:
        if table is not None:
            table.flush()
    readable = torch.tensor([s.path not in unreadable for s in samples], dtype=torch.bool)
    codes = [rows.tensor(n, views, readable) for rows in store]
    return codes, labels if readable.all() else labels[readable], unreadable


def _table(forward: FeatureExtractor, cache: FeatureCache | None) -> CacheTable | None:
    key = forward.key()
    return cache.table(key) if cache is not None and key is not None else None


def view_id(sample: Sample, augmentation: Augmentation | None, seed: int, view: int) -> bytes:
    """Under what a view of an image is cached; view 0 is the plain one."""
    return row_id(sample.digest, f"{_text(augmentation)}:{seed}:{view}" if view else PLAIN_VIEW)


@lru_cache(8)  # it is asked for with every view
def _text(augmentation: Augmentation | None) -> str:
    return str(augmentation)


def view_key(sample: Sample, seed: int, view: int) -> str:
    """What an augmented view is drawn from; of the plain one ""."""
    return f"{seed}:{sample.digest}:{view}" if view else ""


def _chunks(items: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def bytes_per_view(forward: FeatureExtractor) -> int:
    """What remembering one view costs, in bytes."""
    side = forward.preprocessing.crop
    black = torch.zeros(1, 3, side, side, device=forward.compute.device)
    # The plain stages: the folded ones are checked on their first batch, which must be a real one.
    with torch.no_grad():
        return forward.plain(black).numel() * forward.dtype.itemsize


def features_memory_limit() -> int:
    """Bytes that remembered activations may take: a third of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 3
