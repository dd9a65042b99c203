"""What all processes of a job have to know: told by the first, or gathered from each.

What is sent are tensors and JSON, never pickles: whoever reaches a port of the job can make nobody
run anything. With one process each function gives back what it was given; see
`tlcli.runtime.distributed.process_group`.
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
    torchrun_variable,
    world_size,
)

T = TypeVar("T")


def broadcast_from_first(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives the first process, the only one that calls it: tensors and JSON by name."""
    if world_size() == 1:
        return make()
    plain, tensors = b"", b""
    if is_rank0():
        with single_process():
            made = make()
        held = {k: v.detach().cpu().contiguous() for k, v in made.items() if isinstance(v, Tensor)}
        plain = json.dumps({k: v for k, v in made.items() if k not in held}).encode()
        tensors = safetensors.torch.save(held)
    with detect_lost_peers():
        plain, tensors = _send(plain, 0), _send(tensors, 0)
    return made if is_rank0() else json.loads(plain) | safetensors.torch.load(tensors)


def run_on_rank0(do: Callable[[], None]) -> None:
    """`do` in the first process; the others wait until it is done."""

    def done() -> dict[str, Any]:
        do()
        return {}

    broadcast_from_first(done)


def all_gather(own: Any) -> list[Any]:
    """What each process has, JSON, in the order of their ranks."""
    if world_size() == 1:
        return [own]
    with detect_lost_peers():
        data = json.dumps(own).encode()
        return [json.loads(_send(data, source)) for source in range(world_size())]


def all_gather_dict(own: dict[Path, str]) -> dict[Path, str]:
    """What any process has, by path."""
    if world_size() == 1:
        return own
    everyone = all_gather({str(path): why for path, why in own.items()})
    return {Path(path): why for one in everyone for path, why in one.items()}


def smallest_share(amount: int) -> int:
    """Of an amount that a machine has, what each of its processes may take: everywhere the same."""
    amount //= torchrun_variable("LOCAL_WORLD_SIZE", 1)
    return min(all_gather(amount))


def local_rank_first(make: Callable[[], T]) -> T:
    """`make` by each machine's first process before the others: what it downloads is there then."""
    made = make() if is_local_rank0() else None
    all_gather(None)
    return make() if made is None else made


def _send(data: bytes, source: int) -> bytes:
    """`data` as the process `source` has it."""
    size = torch.tensor([len(data)])
    torch.distributed.broadcast(size, source)
    here = torch.empty(int(size), dtype=torch.uint8)
    if source == rank():
        here = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if len(here):
        torch.distributed.broadcast(here, source)
    return here.numpy().tobytes()
