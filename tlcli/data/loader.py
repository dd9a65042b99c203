"""Batches of image tensors from files, decoded by threads that read ahead."""

import random
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import torch

from tlcli.data.augmentation.apply import augment_image
from tlcli.data.augmentation.spec import Augmentation
from tlcli.data.decode import ImageSource, Unreadable, decode
from tlcli.data.preprocessing import Preprocessing
from tlcli.reporter import Reporter
from tlcli.runtime.threads import map_in_order

ImageBatch = tuple[torch.Tensor, list[Unreadable | None]]


def load_batches(
    sources: Iterable[ImageSource],
    pre: Preprocessing,
    *,
    batch_size: int,
    augmentation: Augmentation | None = None,
    keys: Iterable[str | Sequence[str]] | None = None,
    workers: int | None = None,
) -> Iterator[ImageBatch]:
    """Load images in the order of `sources`, in batches of one size.

    Args:
        augmentation: makes random views; needs `keys`.
        keys: a seed for each source, which alone determines the random view; "" gives the plain
            view. Several seeds for a source give several views of it, and it is decoded once.
        workers: number of decoding threads; None for one per core.

    Yields:
        uint8 [batch_size, 3, crop, crop], and for each image in it None, or why it is unreadable
        and its pixels are zeros. The last batch is padded with zeros, because a fixed batch size
        keeps results equal; the list is as long as the images without padding.

    Raises:
        ValueError: an augmentation without keys, or not as many keys as sources.
    """
    if augmentation is not None and keys is None:
        raise ValueError("an augmentation needs a key for each image")

    def load(job: tuple[ImageSource, str | Sequence[str]]) -> list[torch.Tensor | Unreadable]:
        source, seeds = job
        seeds = [seeds] if isinstance(seeds, str) else seeds
        try:
            image = decode(source, pre.min_side)
        except Unreadable as error:
            return [error] * len(seeds)
        return [
            pre.to_pixels(image)
            if augmentation is None or not seed
            else augment_image(image, pre, augmentation, random.Random(seed))
            for seed in seeds
        ]

    jobs = zip(sources, repeat("") if keys is None else keys, strict=keys is not None)
    # one batch being consumed and the next being decoded
    loaded = map_in_order(load, jobs, workers=workers, ahead=2 * batch_size)
    return _stack_batches(loaded, batch_size, pre.crop)


def find_unreadable(paths: Sequence[Path], reporter: Reporter | None = None) -> dict[Path, str]:
    """Decode every image completely, and return those that are unreadable with the reasons."""
    reporter = reporter or Reporter()

    def check(path: Path) -> str | None:
        try:
            decode(
                path, min_side=1
            )  # a reduced size is faster, and reads the file to its end all the same
        except Unreadable as error:
            return error.reason
        return None

    unreadable: dict[Path, str] = {}
    reasons = map_in_order(check, paths)
    for done, (path, reason) in enumerate(zip(paths, reasons, strict=True), 1):
        if reason is not None:
            unreadable[path] = reason
        reporter.progress("checking images", done, len(paths))
    return unreadable


def _stack_batches(
    loaded: Generator[list[torch.Tensor | Unreadable], None, None], batch_size: int, side: int
) -> Iterator[ImageBatch]:
    """Stack images into batches of `batch_size`; see `load_batches`."""
    with closing(loaded):
        outcomes = chain.from_iterable(loaded)
        while group := list(islice(outcomes, batch_size)):
            # numpy, because torch's threads would meet for every image and delay the decoders
            images = np.zeros((batch_size, 3, side, side), np.uint8)
            problems: list[Unreadable | None] = []
            for row, outcome in enumerate(group):
                if isinstance(outcome, Unreadable):
                    problems.append(outcome)
                else:
                    images[row] = outcome.numpy()
                    problems.append(None)
            yield torch.from_numpy(images), problems
