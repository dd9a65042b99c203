"""Batches of images from a source that may be slow or endless, such as a pipe."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from tlcli.data import tta as crops
from tlcli.data.decode import ImageSource, Unreadable, decode
from tlcli.data.preprocessing import Preprocessing
from tlcli.runtime.threads import usable_cores

PATIENCE = 0.2
"""Seconds without a new image after which those at hand are answered as they are."""

Job = tuple[str | None, ImageSource]
Decoded = tuple[str | None, tuple[torch.Tensor, ...] | Unreadable]


@dataclass(frozen=True)
class Group:
    """Some images, decoded.

    Attributes:
        names: as they came with the images.
        pixels: for each preprocessing uint8 [m, views, 3, crop, crop], m >= n; what is missing is
            zeros.
        problems: for each of the n images None, or why its pixels are zeros.
        last: there are no more images.
        more: others are waiting already.
    """

    names: list[str | None]
    pixels: list[torch.Tensor]
    problems: list[Unreadable | None]
    last: bool
    more: bool


def stream_groups(
    jobs: Iterable[Job],
    preprocessings: Sequence[Preprocessing],
    *,
    batch: int,
    tta: str = "none",
    patience: float = PATIENCE,
) -> Iterator[Group]:
    """The images in order, `batch` at a time, decoded ahead by threads in bounded memory.

    Where `jobs` (a name and an image) has nothing new for `patience` seconds, what has come is
    handed on: whoever writes paths into a pipe one by one gets answers one by one. Groups are
    padded with zeros to `batch`, as a fixed size keeps results equal; after a pause only to a
    power of two, and the only group of a short source not at all.

    Args:
        tta: which views of each image; a key of `tlcli.data.tta.VIEWS`.
    """

    def pixels(job: Job) -> Decoded:
        name, source = job
        try:
            image = decode(source, least)
        except Unreadable as error:
            return name, error
        return name, tuple(crops.views(image, pre, tta) for pre in preprocessings)

    shapes = [(crops.count(tta), 3, pre.crop, pre.crop) for pre in preprocessings]
    least = max(pre.least for pre in preprocessings)
    first = True
    for decoded, paused, last, more in _gathered(pixels, jobs, batch, patience):
        n = len(decoded)
        room = n if first and last else batch
        if paused and not last:
            room = min(batch, 1 << (n - 1).bit_length())
        first = False
        yield _group(decoded, shapes, room, last, more)


def _group(
    decoded: list[Decoded], shapes: Sequence[tuple[int, ...]], room: int, last: bool, more: bool
) -> Group:
    pixels = [torch.zeros(room, *shape, dtype=torch.uint8) for shape in shapes]
    problems: list[Unreadable | None] = []
    for row, (_, outcome) in enumerate(decoded):
        if isinstance(outcome, Unreadable):
            problems.append(outcome)
            continue
        problems.append(None)
        for images, image in zip(pixels, outcome, strict=True):
            images[row] = image
    return Group([name for name, _ in decoded], pixels, problems, last, more)


def _gathered(
    function: Callable[[Job], Decoded], items: Iterable[Job], size: int, patience: float
) -> Iterator[tuple[list[Decoded], bool, bool, bool]]:
    """Up to `size` results, whether the source paused behind them, ended, or has more at once."""
    # one batch being taken and the next being decoded
    ahead: queue.Queue[Future[Decoded] | BaseException | None] = queue.Queue(2 * size)
    stop = threading.Event()
    pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="tlcli")

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                ahead.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        # In a thread of its own: `items` may wait for somebody who writes into a pipe.
        try:
            for item in items:
                if stop.is_set() or not put(pool.submit(function, item)):
                    return
        except BaseException as error:
            put(error)
        else:
            put(None)

    threading.Thread(target=read, name="tlcli-reader", daemon=True).start()
    waiting: list[Future[Decoded]] = []
    try:
        while True:
            try:
                item = ahead.get(timeout=patience if waiting else None)
            except queue.Empty:
                yield [f.result() for f in waiting], True, False, False
                waiting = []
                continue
            if isinstance(item, Future):
                # One more than fits: only then is it known whether the group was the last.
                if len(waiting) == size:
                    more = ahead.qsize() >= size // 2
                    yield [f.result() for f in waiting], False, False, more
                    waiting = []
                waiting.append(item)
                continue
            if waiting:
                yield [f.result() for f in waiting], False, True, False
            if item is not None:
                raise item
            return
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
