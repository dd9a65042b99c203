"""Torch's own threads, and worker threads that each compute on a share of them."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

from tlcli.runtime.device import Compute
from tlcli.runtime.threads import map_in_order

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Let torch compute on `n` threads: on small problems, several wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compute_in_parallel(
    function: Callable[[Item], Result], items: Iterable[Item], compute: Compute
) -> Generator[Result, None, None]:
    """Apply a function of tensors to each item, in order, in the workers of `compute`.

    Each worker computes on its share of torch's threads, so that none waits for another. Until
    the last result is taken, the caller's thread is limited to one share too.
    """
    n, threads = compute.workers, compute.threads
    if n == 1:
        yield from map(function, items)
        return
    limit_threads = partial(torch.set_num_threads, threads)
    with torch_threads(threads):
        yield from map_in_order(function, items, workers=n, ahead=n + 1, first=limit_threads)
