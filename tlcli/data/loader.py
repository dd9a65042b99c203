"""From files to batches of tensors, decoded by threads ahead of whoever takes them."""

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
    batch: int,
    augmentation: Augmentation | None = None,
    keys: Iterable[str | Sequence[str]] | None = None,
    workers: int | None = None,
) -> Iterator[ImageBatch]:
    """Pictures in the order of `sources`, `batch` at a time.

    Every tensor is uint8 [batch, 3, crop, crop], the last one too (padded with zeros: a fixed
    batch size keeps results equal). Beside it stands a list with an item for each picture that
    it really holds: None, or why that picture is missing and its pixels are zeros.

    Args:
        augmentation: give random views; needs `keys`.
        keys: a seed for each picture; the view depends on nothing else. Of several views of a
            picture, which is decoded once, several; "" is the picture as it is.
        workers: decoding threads; a core each where not said.

    Raises:
        ValueError: an augmentation without keys, or not as many keys as sources.
    """
    if augmentation is not None and keys is None:
        raise ValueError("an augmentation needs a key for each picture")

    def pixels(job: tuple[ImageSource, str | Sequence[str]]) -> list[torch.Tensor | Unreadable]:
        source, wanted = job
        several = [wanted] if isinstance(wanted, str) else wanted
        try:
            image = decode(source, pre.least)
        except Unreadable as error:
            return [error] * len(several)
        return [
            pre.fit(image)
            if augmentation is None or not key
            else augment_image(image, pre, augmentation, random.Random(key))
            for key in several
        ]

    jobs = zip(sources, repeat("") if keys is None else keys, strict=keys is not None)
    # one batch being taken and the next being decoded
    loaded = map_in_order(pixels, jobs, workers=workers, ahead=2 * batch)
    return _batches(loaded, batch, pre.crop)


def _batches(
    loaded: Generator[list[torch.Tensor | Unreadable], None, None], batch: int, side: int
) -> Iterator[ImageBatch]:
    with closing(loaded):
        outcomes = chain.from_iterable(loaded)
        while group := list(islice(outcomes, batch)):
            # By numpy: torch's threads would meet for every picture, in the decoders' way.
            images = np.zeros((batch, 3, side, side), np.uint8)
            problems: list[Unreadable | None] = []
            for row, outcome in enumerate(group):
                if isinstance(outcome, Unreadable):
                    problems.append(outcome)
                else:
                    images[row] = outcome.numpy()
                    problems.append(None)
            yield torch.from_numpy(images), problems


def find_unreadable(paths: Sequence[Path], reporter: Reporter | None = None) -> dict[Path, str]:
    """Which of `paths` give no picture, and why: every one is decoded to its end."""
    reporter = reporter or Reporter()

    def why(path: Path) -> str | None:
        try:
            decode(path, least=1)  # read to its end all the same
        except Unreadable as error:
            return error.why
        return None

    bad: dict[Path, str] = {}
    for done, (path, reason) in enumerate(zip(paths, map_in_order(why, paths), strict=True), 1):
        if reason is not None:
            bad[path] = reason
        reporter.progress("checking images", done, len(paths))
    return bad
