"""Work divided among the processes of a job: feature passes, validation and training.

In a single process each function returns its input.
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
from tlcli.runtime.mapped_tensor import ScratchFolder, empty_or_mapped

T = TypeVar("T")

MESSAGE_BYTES = 32_000_000
"""Bytes of features that are sent at a time."""

Extract = Callable[..., tuple[list[Tensor], Tensor, dict[Path, str]]]


def shard(items: Sequence[T]) -> Sequence[T]:
    """Return every n-th item for n processes, so that neighbors (a class) are spread."""
    return items if world_size() == 1 else items[rank() :: world_size()]


def sharded(extract: Extract) -> Extract:
    """Run `extract` on this process's shard of the samples, and gather the results of all.

    `extract` takes the samples first and returns features [n, ...], labels [n] of the readable
    samples in their order, and the reason for each unreadable one, by path. The features of an
    image must not depend on the other images, so they are the same bits in whichever process.
    """

    @wraps(extract)
    def extract_shard(samples: Sequence[Any], *args: Any, task: str, **options: Any) -> Any:
        n = world_size()
        if n == 1:
            return extract(samples, *args, task=task, **options)
        task = f"{task} (shard {rank() + 1} of {n})"
        features, labels, unreadable = extract(shard(samples), *args, task=task, **options)
        unreadable = all_gather_dict(unreadable)
        readable = torch.tensor([s.path not in unreadable for s in samples], dtype=torch.bool)
        row = readable.cumsum(0) - 1
        places = [row[r::n][readable[r::n]] for r in range(n)]
        scratch = options.get("cache")
        gathered = [_gather(each, places, scratch) for each in features]
        return gathered, _gather(labels, places), unreadable

    return extract_shard


def _indices_by_rank(n: int, batch_size: int) -> list[Tensor]:
    """Deal n images to the ranks in full batches; with too few batches, every rank takes all."""
    batches = torch.arange(n).split(batch_size)
    if len(batches) < world_size():
        return [torch.arange(n)] * world_size()
    return [torch.cat(batches[r :: world_size()]) for r in range(world_size())]


def shard_indices(n: int, batch_size: int) -> Tensor:
    """Return which of n images this process computes, int64 [m].

    A process takes full batches, the same ones that a single process would compute.
    """
    return torch.arange(n) if world_size() == 1 else _indices_by_rank(n, batch_size)[rank()]


def gather_rows(rows: Tensor, n: int, batch_size: int) -> Tensor:
    """Return the n rows of all processes, in order, from the rows [m, ...] of `shard_indices`."""
    return rows if len(rows) == n else _gather(rows, _indices_by_rank(n, batch_size))


def _gather(rows: Tensor, places: Sequence[Tensor], scratch: ScratchFolder | None = None) -> Tensor:
    """Gather each rank's rows, [m, ...], at its places, int64 [m]; large ones in a mapped file."""
    kinds = all_gather([list(rows.shape[1:]), str(rows.dtype).rpartition(".")[2]])
    # A process without rows does not know their shape and type.
    shape, dtype = next((k for k, p in zip(kinds, places, strict=True) if len(p)), kinds[0])
    gathered = empty_or_mapped([sum(map(len, places)), *shape], getattr(torch, dtype), scratch)
    rows_per_message = max(1, MESSAGE_BYTES // max(1, gathered[:1].nbytes))
    for source, indices in enumerate(places):
        for number, chunk in enumerate(indices.split(rows_per_message) if len(indices) else ()):
            part = torch.empty(len(chunk), *shape, dtype=gathered.dtype)
            if source == rank():
                part = rows[number * rows_per_message :][: len(chunk)].contiguous()
            with detect_lost_peers():
                # As bytes, because not every backend sends every type.
                torch.distributed.broadcast(part.flatten().view(torch.uint8), source)
            gathered[chunk] = part
    return gathered


def check_batch_size(batch_size: int) -> None:
    """Check that every process has at least one image of a batch.

    Raises:
        UsageError: there are more processes than images in a batch.
    """
    if batch_size < world_size():
        raise UsageError(
            f"--batch-size {batch_size} is less than one image for each of {world_size()} processes"
        )


def shard_batches(order: Tensor, batch_size: int) -> tuple[Tensor, int]:
    """Return this process's shard of every batch of an epoch, and the size of such a shard.

    Of a batch with fewer images than processes, several processes compute the same image.

    Args:
        order: The images of the epoch, int64 [n].

    Raises:
        UsageError: every batch has fewer images than processes.
    """
    n = world_size()
    if n == 1:
        return order, batch_size
    check_batch_size(batch_size)
    shards = [
        batch[rank() :: n] if len(batch) >= n else batch[[rank() % len(batch)]]
        for batch in order.split(batch_size)
    ]
    return torch.cat(shards), shard_batch_size(batch_size)


def shard_batch_size(batch_size: int) -> int:
    """Return how many images of a full batch this process computes."""
    return len(range(rank(), batch_size, world_size()))


def n_copies(total: int) -> int:
    """Return how many processes compute the same image of a batch of `total` as this one."""
    n = world_size()
    return len(range(rank() % total, n, total)) if total < n else 1


def loss_divisor(n: int, total: int) -> float:
    """Return this rank's loss divisor, so that averaged gradients are those of the whole batch.

    Args:
        n: Images of the batch that this rank computes; ranks may differ.
        total: Images of the batch in all ranks.
    """
    return n if world_size() == 1 else total * n_copies(total) / world_size()


def all_reduce_sum(sums: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place."""
    if world_size() > 1:
        with detect_lost_peers():
            torch.distributed.all_reduce(sums)
    return sums


def wrap_ddp(module: nn.Module, unused_parameters: bool = False) -> nn.Module:
    """Wrap a module so that its gradients are averaged over all processes.

    It starts from rank 0's weights.

    Args:
        unused_parameters: Whether parts of it are frozen at times. All of it must be trainable
            when this is called.
    """
    if world_size() == 1:
        return module
    from torch.nn.parallel import DistributedDataParallel

    device = next(module.parameters()).device
    with detect_lost_peers(), warnings.catch_warnings():
        # torch 2.15 deprecates the name for one that 2.11 does not have.
        warnings.simplefilter("ignore", FutureWarning)
        # Buffers are BatchNorm's statistics, which `average_buffers` handles once per epoch.
        return DistributedDataParallel(
            module,
            [device] if device.type == "cuda" else None,
            broadcast_buffers=False,
            find_unused_parameters=unused_parameters,
        )


@torch.no_grad()
def average_buffers(module: nn.Module) -> None:
    """Average the running statistics of training modules over all processes.

    Each process has seen only its shard of every batch.
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
