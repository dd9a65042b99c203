"""A function applied to many items in threads: in order, ahead of the consumer, in bounded memory.

Without torch, so that scanning a folder starts quickly; see `workers` for functions of tensors.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Return how many CPU cores this process may use.

    Containers and taskset often allow fewer than the machine has. Processes that torchrun starts
    on one machine share its cores.
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
    """Yield `function` of each item, in the order of the items.

    Threads suffice: hashing and Pillow's decoding and resizing release the interpreter lock.
    Close the iterator or exhaust it to end the threads; work that has not begun is dropped then.

    Args:
        workers: The number of threads; None: one per usable core.
        ahead: The largest number of items that are worked on or wait to be taken.
        first: Called by each thread before anything else.

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
