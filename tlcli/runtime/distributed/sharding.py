"""Work dealt to the processes of a job, and put together again: passes, validation, training.

With one process each function gives back what it was given; see `tlcli.runtime.distributed.process_group`.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tlcli.errors import UsageError
from tlcli.runtime.distributed.collectives import gathered, union
from tlcli.runtime.distributed.process_group import rank, talking, world
from tlcli.runtime.memory import Scratch, empty_or_mapped

T = TypeVar("T")

MESSAGE = 32_000_000
"""Bytes of activations that are sent at once."""

Pass = Callable[..., tuple[list[Tensor], Tensor, dict[Path, str]]]


def mine(items: Sequence[T]) -> Sequence[T]:
    """This process' share: one in so many, so that neighbours (a class) are spread."""
    return items if world() == 1 else items[rank() :: world()]


def sharded(remember: Pass) -> Pass:
    """A pass over samples of which each process makes its share and all get the whole.

    `remember` takes the samples first and gives lists of activations [n, ...] and labels [n] of
    those that are readable, in their order, and why the others are not. An image's numbers
    must not depend on which others it came with: they are the same bits whoever computes them.
    """

    @wraps(remember)
    def together(samples: Sequence[Any], *rest: Any, task: str, **how: Any) -> Any:
        if world() == 1:
            return remember(samples, *rest, task=task, **how)
        many = world()
        codes, labels, bad = remember(
            mine(samples), *rest, task=f"{task}, 1 of {many} shares", **how
        )
        bad = union(bad)
        readable = torch.tensor([s.path not in bad for s in samples], dtype=torch.bool)
        row = readable.cumsum(0) - 1
        places = [row[r::many][readable[r::many]] for r in range(many)]
        cache = how.get("cache")
        return [_assembled(c, places, cache) for c in codes], _assembled(labels, places), bad

    return together


def _dealt(n: int, batch: int) -> list[Tensor]:
    """By rank, which of n images are its: whole batches. Of too few batches each takes all."""
    batches = torch.arange(n).split(batch)
    many = world()
    if len(batches) < many:
        return [torch.arange(n)] * many
    return [torch.cat(batches[r::many]) for r in range(many)]


def share(n: int, batch: int) -> Tensor:
    """Which of n images are this process' to answer, int64 [m]: batches as one process has them."""
    return torch.arange(n) if world() == 1 else _dealt(n, batch)[rank()]


def whole(rows: Tensor, n: int, batch: int) -> Tensor:
    """The rows [n, ...] of all processes' shares (`share(n, batch)`), in order."""
    return rows if len(rows) == n else _assembled(rows, _dealt(n, batch))


def _assembled(rows: Tensor, places: Sequence[Tensor], scratch: Scratch | None = None) -> Tensor:
    """Each rank's `rows` [m, ...] at its `places` in the whole; of many, a mapped file."""
    kinds = gathered([list(rows.shape[1:]), str(rows.dtype).rpartition(".")[2]])
    # A process without rows does not know what they look like.
    shape, dtype = next((k for k, p in zip(kinds, places, strict=True) if len(p)), kinds[0])
    whole = empty_or_mapped([sum(map(len, places)), *shape], getattr(torch, dtype), scratch)
    at_once = max(1, MESSAGE // max(1, whole[:1].nbytes))
    for source, there in enumerate(places):
        own = source == rank()
        for number, some in enumerate(there.split(at_once) if len(there) else ()):
            part = torch.empty(len(some), *shape, dtype=whole.dtype)
            if own:
                part = rows[number * at_once :][: len(some)].contiguous()
            with talking():
                # As bytes: not every backend sends every type.
                torch.distributed.broadcast(part.flatten().view(torch.uint8), source)
            whole[some] = part
    return whole


def check_batch(batch: int) -> None:
    """Whether every process has its part of a batch.

    Raises:
        UsageError: there are more processes than images in it.
    """
    if batch < world():
        raise UsageError(
            f"--batch-size {batch} is less than an image for each of {world()} processes"
        )


def parts(order: Tensor, batch: int) -> tuple[Tensor, int]:
    """This process' part of every batch of an epoch: its images in order, and how many at once.

    A batch of fewer images than processes has some computed by several of them.

    Raises:
        UsageError: that would be every batch.
    """
    many = world()
    if many == 1:
        return order, batch
    check_batch(batch)
    own = [
        b[rank() :: many] if len(b) >= many else b[[rank() % len(b)]] for b in order.split(batch)
    ]
    return torch.cat(own), part_size(batch)


def part_size(batch: int) -> int:
    """How many of a whole batch's images are this process' part."""
    return len(range(rank(), batch, world()))


def repeats(total: int) -> int:
    """How many processes compute an image of a batch of `total` that this one computes."""
    many = world()
    return len(range(rank() % total, many, total)) if total < many else 1


def divisor(n: int, total: int) -> float:
    """What the sum of the losses of this process' n images of a batch of `total` is divided by.

    So that the mean of all processes' gradients is that of all `total` images, however unequal
    the parts are.
    """
    return n if world() == 1 else total * repeats(total) / world()


def summed(sums: Tensor) -> Tensor:
    """The sum over all processes, at once where each has it: a loss that is no number, say."""
    if world() > 1:
        with talking():
            torch.distributed.all_reduce(sums)
    return sums


def parallel(module: nn.Module, changing: bool = False) -> nn.Module:
    """`module` so that its gradients are the mean over all processes; it begins as the first's.

    `changing`: not all of it learns all the time, though all of it may when this is called.
    """
    if world() == 1:
        return module
    from torch.nn.parallel import DistributedDataParallel

    device = next(module.parameters()).device
    with talking(), warnings.catch_warnings():
        # torch 2.15 deprecates the name for one that 2.11 does not know.
        warnings.simplefilter("ignore", FutureWarning)
        # Buffers are BatchNorm's statistics: `level` sees to them, once an epoch.
        return DistributedDataParallel(
            module,
            [device] if device.type == "cuda" else None,
            broadcast_buffers=False,
            find_unused_parameters=changing,
        )


@torch.no_grad()
def level(module: nn.Module) -> None:
    """Running statistics that training moved become their mean over all processes.

    Each process has seen its part of every batch only.
    """
    if world() == 1:
        return
    moved = [
        buffer
        for part in module.modules()
        if part.training
        for buffer in part.buffers(recurse=False)
        if buffer.is_floating_point()
    ]
    if moved:
        flat = torch.cat([buffer.flatten() for buffer in moved])
        with talking():
            torch.distributed.all_reduce(flat)
        for buffer, mean in zip(moved, flat.split([b.numel() for b in moved]), strict=True):
            buffer.copy_(mean.view_as(buffer) / world())
