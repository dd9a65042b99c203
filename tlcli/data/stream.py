"""Batches of images from a source that may be slow or endless, such as a pipe."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import torch

from tlcli.data.decode import ImageSource, Unreadable, decode
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.tta import count_views, make_views
from tlcli.runtime.threads import usable_cores

MAX_WAIT_SECONDS = 0.2
"""Time without a new image after which an incomplete batch is returned."""

NamedImage = tuple[str | None, ImageSource]
DecodedImage = tuple[str | None, tuple[torch.Tensor, ...] | Unreadable]
"""A name, and for each preprocessing uint8 [views, 3, crop, crop]; or why there are no pixels."""


@dataclass(frozen=True)
class StreamBatch:
    """A batch of n decoded images.

    Attributes:
        names: the names that came with the images.
        pixels: for each preprocessing uint8 [m, views, 3, crop, crop], m >= n; unreadable images
            and padding are zeros.
        problems: for each of the n images None, or why it is unreadable.
        is_last: whether there are no more images.
        more_ready: whether further images are decoded or being decoded already.
    """

    names: list[str | None]
    pixels: list[torch.Tensor]
    problems: list[Unreadable | None]
    is_last: bool
    more_ready: bool


def stream_batches(
    images: Iterable[NamedImage],
    preprocessings: Sequence[Preprocessing],
    *,
    batch_size: int,
    tta: str = "none",
    max_wait: float = MAX_WAIT_SECONDS,
) -> Iterator[StreamBatch]:
    """Decode images in order, by threads that read ahead in bounded memory.

    If `images` has nothing new for `max_wait` seconds, an incomplete batch is returned, so that
    someone who writes paths into a pipe one by one gets predictions one by one. Batches are padded
    with zeros to `batch_size`, because a fixed size keeps results equal. After a pause they are
    padded to a power of two only, and the only batch of a short source is not padded.

    Args:
        tta: which views to make of each image; a key of `tlcli.data.tta.TTA_VIEWS`.
        max_wait: in seconds.
    """

    def decode_views(named: NamedImage) -> DecodedImage:
        name, source = named
        try:
            image = decode(source, min_side)
        except Unreadable as error:
            return name, error
        return name, tuple(make_views(image, pre, tta) for pre in preprocessings)

    shapes = [(count_views(tta), 3, pre.crop, pre.crop) for pre in preprocessings]
    min_side = max(pre.min_side for pre in preprocessings)
    first = True
    # one batch being consumed and the next being decoded
    with closing(_ReadAhead(decode_views, images, 2 * batch_size)) as ahead:
        for group in _group_results(ahead, batch_size, max_wait):
            n = len(group.decoded)
            padded = n if first and group.is_last else batch_size
            if group.paused:
                padded = min(batch_size, 1 << (n - 1).bit_length())
            first = False
            yield _stack(group, shapes, padded)


class _ReadAhead:
    """Results of a function on items, computed in order by threads that read ahead.

    Attributes:
        results: a bounded queue of futures, then None or the exception that ended `items`.
    """

    def __init__(
        self, function: Callable[[NamedImage], DecodedImage], items: Iterable[NamedImage], size: int
    ) -> None:
        self.results: queue.Queue[Future[DecodedImage] | BaseException | None] = queue.Queue(size)
        self._function = function
        self._items = items
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="tlcli")
        # in a thread of its own: `items` may wait for someone who writes into a pipe
        threading.Thread(target=self._read, name="tlcli-reader", daemon=True).start()

    def close(self) -> None:
        """Stop reading, and cancel what is not computed yet."""
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self) -> None:
        try:
            for item in self._items:
                if self._stop.is_set():
                    return
                if not self._put(self._pool.submit(self._function, item)):
                    return
        except BaseException as error:
            self._put(error)
        else:
            self._put(None)

    def _put(self, result: Future[DecodedImage] | BaseException | None) -> bool:
        """Put `result` into the queue once there is space; return False if closed meanwhile."""
        while not self._stop.is_set():
            try:
                self.results.put(result, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


@dataclass(frozen=True)
class _Group:
    """Decoded images that are returned together.

    Attributes:
        paused: whether the source had nothing new for a while after them.
        is_last: whether the source ended after them.
        more_ready: whether many more are being decoded already.
    """

    decoded: list[DecodedImage]
    paused: bool = False
    is_last: bool = False
    more_ready: bool = False


def _group_results(ahead: _ReadAhead, size: int, max_wait: float) -> Iterator[_Group]:
    """Group results by `size`; raise the source's exception after the results before it."""
    waiting: list[Future[DecodedImage]] = []
    while True:
        try:
            result = ahead.results.get(timeout=max_wait if waiting else None)
        except queue.Empty:
            yield _Group([f.result() for f in waiting], paused=True)
            waiting = []
            continue
        if not isinstance(result, Future):
            if waiting:
                yield _Group([f.result() for f in waiting], is_last=True)
            if result is not None:
                raise result
            return
        # a full group waits for one more result, which shows whether it is the last
        if len(waiting) == size:
            more_ready = ahead.results.qsize() >= size // 2
            yield _Group([f.result() for f in waiting], more_ready=more_ready)
            waiting = []
        waiting.append(result)


def _stack(group: _Group, shapes: Sequence[tuple[int, ...]], padded: int) -> StreamBatch:
    """Stack a group's images into tensors of `padded` rows, one tensor per shape."""
    pixels = [torch.zeros(padded, *shape, dtype=torch.uint8) for shape in shapes]
    problems: list[Unreadable | None] = []
    for row, (_, outcome) in enumerate(group.decoded):
        if isinstance(outcome, Unreadable):
            problems.append(outcome)
            continue
        problems.append(None)
        for images, image in zip(pixels, outcome, strict=True):
            images[row] = image
    names = [name for name, _ in group.decoded]
    return StreamBatch(names, pixels, problems, group.is_last, group.more_ready)
