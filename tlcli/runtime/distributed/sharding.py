"""Work dealt to the processes of a job, and put together again: passes, validation, training.

With one process each function returns its input unchanged; see `process_group`.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tlcli.errors import UsageError
from tlcli.runtime.distributed.collectives import all_gather, all_gather_dict
from tlcli.runtime.distributed.process_group import detect_lost_peers, rank, world_size
from tlcli.runtime.memory import Scratch, empty_or_mapped

T = TypeVar("T")

MESSAGE_BYTES = 32_000_000
"""Bytes of activations that are sent at once."""

Pass = Callable[..., tuple[list[Tensor], Tensor, dict[Path, str]]]


def shard(items: Sequence[T]) -> Sequence[T]:
    """This process' share: one in so many, so that neighbours (a class) are spread."""
    return items if world_size() == 1 else items[rank() :: world_size()]


def sharded(remember: Pass) -> Pass:
    """A pass over samples of which each process makes its share and all get the whole.

    `remember` takes the samples first and gives lists of activations [n, ...] and labels [n] of
    those that are readable, in their order, and why the others are not. An image's numbers
    must not depend on which others it came with: they are the same bits whoever computes them.
    """

    @wraps(remember)
    def together(samples: Sequence[Any], *rest: Any, task: str, **how: Any) -> Any:
        if world_size() == 1:
            return remember(samples, *rest, task=task, **how)
        many = world_size()
        codes, labels, bad = remember(
            shard(samples), *rest, task=f"{task}, 1 of {many} shares", **how
        )
        bad = all_gather_dict(bad)
        readable = torch.tensor([s.path not in bad for s in samples], dtype=torch.bool)
        row = readable.cumsum(0) - 1
        places = [row[r::many][readable[r::many]] for r in range(many)]
        cache = how.get("cache")
        return [_assemble(c, places, cache) for c in codes], _assemble(labels, places), bad

    return together


def _batches_by_rank(n: int, batch: int) -> list[Tensor]:
    """By rank, which of n images are its: whole batches. Of too few batches each takes all."""
    batches = torch.arange(n).split(batch)
    many = world_size()
    if len(batches) < many:
        return [torch.arange(n)] * many
    return [torch.cat(batches[r::many]) for r in range(many)]


def shard_indices(n: int, batch: int) -> Tensor:
    """Which of n images are this process' to answer, int64 [m]: batches as one process has them."""
    return torch.arange(n) if world_size() == 1 else _batches_by_rank(n, batch)[rank()]


def gather_rows(rows: Tensor, n: int, batch: int) -> Tensor:
    """The rows [n, ...] of all processes' shares (`shard_indices(n, batch)`), in order."""
    return rows if len(rows) == n else _assemble(rows, _batches_by_rank(n, batch))


def _assemble(rows: Tensor, places: Sequence[Tensor], scratch: Scratch | None = None) -> Tensor:
    """Each rank's `rows` [m, ...] at its `places` in the whole; of many, a mapped file."""
    kinds = all_gather([list(rows.shape[1:]), str(rows.dtype).rpartition(".")[2]])
    # A process without rows does not know what they look like.
    shape, dtype = next((k for k, p in zip(kinds, places, strict=True) if len(p)), kinds[0])
    gather_rows = empty_or_mapped([sum(map(len, places)), *shape], getattr(torch, dtype), scratch)
    at_once = max(1, MESSAGE_BYTES // max(1, gather_rows[:1].nbytes))
    for source, there in enumerate(places):
        own = source == rank()
        for number, some in enumerate(there.split(at_once) if len(there) else ()):
            part = torch.empty(len(some), *shape, dtype=gather_rows.dtype)
            if own:
                part = rows[number * at_once :][: len(some)].contiguous()
            with detect_lost_peers():
                # As bytes: not every backend sends every type.
                torch.distributed.broadcast(part.flatten().view(torch.uint8), source)
            gather_rows[some] = part
    return gather_rows


def check_batch(batch: int) -> None:
    """Whether every process has its part of a batch.

    Raises:
        UsageError: there are more processes than images in it.
    """
    if batch < world_size():
        raise UsageError(
            f"--batch-size {batch} is less than an image for each of {world_size()} processes"
        )


def shard_batches(order: Tensor, batch: int) -> tuple[Tensor, int]:
    """This process' part of every batch of an epoch: its images in order, and how many at once.

    A batch of fewer images than processes has some computed by several of them.

    Raises:
        UsageError: that would be every batch.
    """
    many = world_size()
    if many == 1:
        return order, batch
    check_batch(batch)
    own = [
        b[rank() :: many] if len(b) >= many else b[[rank() % len(b)]] for b in order.split(batch)
    ]
    return torch.cat(own), shard_batch_size(batch)


def shard_batch_size(batch: int) -> int:
    """How many of a whole batch's images are this process' part."""
    return len(range(rank(), batch, world_size()))


def n_copies(total: int) -> int:
    """How many processes compute an image of a batch of `total` that this one computes."""
    many = world_size()
    return len(range(rank() % total, many, total)) if total < many else 1


def loss_divisor(n: int, total: int) -> float:
    """What the sum of the losses of this process' n images of a batch of `total` is divided by.

    So that the mean of all processes' gradients is that of all `total` images, however unequal
    the parts are.
    """
    return n if world_size() == 1 else total * n_copies(total) / world_size()


def all_reduce_sum(sums: Tensor) -> Tensor:
    """The sum over all processes, at once where each has it: a loss that is no number, say."""
    if world_size() > 1:
        with detect_lost_peers():
            torch.distributed.all_reduce(sums)
    return sums


def wrap_ddp(module: nn.Module, changing: bool = False) -> nn.Module:
    """`module` so that its gradients are the mean over all processes; it begins as the first's.

    `changing`: not all of it learns all the time, though all of it may when this is called.
    """
    if world_size() == 1:
        return module
    from torch.nn.parallel import DistributedDataParallel

    device = next(module.parameters()).device
    with detect_lost_peers(), warnings.catch_warnings():
        # torch 2.15 deprecates the name for one that 2.11 does not know.
        warnings.simplefilter("ignore", FutureWarning)
        # Buffers are BatchNorm's statistics: `average_buffers` sees to them, once an epoch.
        return DistributedDataParallel(
            module,
            [device] if device.type == "cuda" else None,
            broadcast_buffers=False,
            find_unused_parameters=changing,
        )


@torch.no_grad()
def average_buffers(module: nn.Module) -> None:
    """Running statistics that training moved become their mean over all processes.

    Each process has seen its part of every batch only.
    """
    if world_size() == 1:
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
        with detect_lost_peers():
            torch.distributed.all_reduce(flat)
        for buffer, mean in zip(moved, flat.split([b.numel() for b in moved]), strict=True):
            buffer.copy_(mean.view_as(buffer) / world_size())
