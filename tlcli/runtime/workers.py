"""TODO"""

from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import TypeVar

import torch

from tlcli.runtime.device import Compute, torch_threads
from tlcli.runtime.threads import map_in_order

Item = TypeVar("Item")


Result = TypeVar("Result")


def map_in_workers(
    function: Callable[[Item], Result], items: Iterable[Item], compute: Compute
) -> Generator[Result, None, None]:
    """`function` of each item, in order, in as many threads as `compute` has workers.

    Each computes on its share of torch's threads, so that nobody waits for anybody; until the last
    result is taken whoever takes them has that share too.
    """
    n, share = compute.workers, compute.threads
    if n == 1:
        yield from map(function, items)
        return
    first = partial(torch.set_num_threads, share)
    with torch_threads(share):
        yield from map_in_order(function, items, workers=n, ahead=n + 1, first=first)
