"""One function over many items in threads: in order, ahead of the consumer, in bounded memory."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """CPU cores this process may use: containers and taskset often give fewer than there are.

    Its share of them, where torchrun started several processes on this machine.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux only
        cores = len(os.sched_getaffinity(0))
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int | None = None,
    ahead: int = 64,
    first: Callable[[], object] | None = None,
) -> Generator[Result, None, None]:
    """`function` of each item, in the items' order; at most `ahead` are worked on or waiting.

    Threads suffice: hashing, Pillow's decoders and its resize release the interpreter lock.
    Each thread calls `first` before anything else.
    Close the iterator (or exhaust it) to end the threads; what has not begun is dropped then.

    Raises:
        Exception: whatever `function` raises, at that item's turn.
    """
    pool = ThreadPoolExecutor(workers or usable_cores(), "tlcli", first)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
