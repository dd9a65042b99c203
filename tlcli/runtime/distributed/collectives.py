"""Values that all processes of a job share: broadcast by rank 0, or gathered from every rank.

Tensors and JSON are sent, never pickles, so that nobody who reaches a port of the job can make it
run code. In a single process each function returns its input.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from tlcli.runtime.distributed.process_group import (
    detect_lost_peers,
    is_local_rank0,
    is_rank0,
    rank,
    single_process,
    torchrun_env,
    world_size,
)

T = TypeVar("T")


def broadcast_from_first(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run `make` on rank 0 and broadcast its result: tensors and JSON values by name."""
    if world_size() == 1:
        return make()
    json_bytes, tensor_bytes = b"", b""
    if is_rank0():
        with single_process():
            made = make()
        tensors = {
            k: v.detach().cpu().contiguous() for k, v in made.items() if isinstance(v, Tensor)
        }
        json_bytes = json.dumps({k: v for k, v in made.items() if k not in tensors}).encode()
        tensor_bytes = safetensors.torch.save(tensors)
    with detect_lost_peers():
        json_bytes, tensor_bytes = _broadcast(json_bytes, 0), _broadcast(tensor_bytes, 0)
    if is_rank0():
        return made
    return json.loads(json_bytes) | safetensors.torch.load(tensor_bytes)


def run_on_rank0(function: Callable[[], None]) -> None:
    """Run a function on rank 0; the other processes wait until it is done."""

    def make() -> dict[str, Any]:
        function()
        return {}

    broadcast_from_first(make)


def all_gather(value: Any) -> list[Any]:
    """Return the JSON value of every process, in the order of their ranks."""
    if world_size() == 1:
        return [value]
    with detect_lost_peers():
        data = json.dumps(value).encode()
        return [json.loads(_broadcast(data, source)) for source in range(world_size())]


def all_gather_dict(texts: dict[Path, str]) -> dict[Path, str]:
    """Return the union of the dictionaries of all processes."""
    if world_size() == 1:
        return texts
    gathered = all_gather({str(path): text for path, text in texts.items()})
    return {Path(path): text for each in gathered for path, text in each.items()}


def min_per_process(amount: int) -> int:
    """Return each process's share of an amount that its machine has: the smallest of all."""
    amount //= torchrun_env("LOCAL_WORLD_SIZE", 1)
    return min(all_gather(amount))


def local_rank_first(make: Callable[[], T]) -> T:
    """Run `make` on each machine's first process before the others, so that it downloads once."""
    made = make() if is_local_rank0() else None
    all_gather(None)
    return make() if made is None else made


def _broadcast(data: bytes, source: int) -> bytes:
    """Return the data of the process with rank `source`."""
    size = torch.tensor([len(data)])
    torch.distributed.broadcast(size, source)
    received = torch.empty(int(size), dtype=torch.uint8)
    if source == rank():
        received = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if len(received):
        torch.distributed.broadcast(received, source)
    return received.numpy().tobytes()
