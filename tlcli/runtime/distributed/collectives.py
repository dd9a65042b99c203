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
    alone,
    first,
    first_here,
    local,
    rank,
    talking,
    world,
)

T = TypeVar("T")


def told(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives the first process, the only one that calls it: tensors and JSON by name."""
    if world() == 1:
        return make()
    plain, tensors = b"", b""
    if first():
        with alone():
            made = make()
        held = {k: v.detach().cpu().contiguous() for k, v in made.items() if isinstance(v, Tensor)}
        plain = json.dumps({k: v for k, v in made.items() if k not in held}).encode()
        tensors = safetensors.torch.save(held)
    with talking():
        plain, tensors = _send(plain, 0), _send(tensors, 0)
    return made if first() else json.loads(plain) | safetensors.torch.load(tensors)


def by_first(do: Callable[[], None]) -> None:
    """`do` in the first process; the others wait until it is done."""

    def done() -> dict[str, Any]:
        do()
        return {}

    told(done)


def gathered(own: Any) -> list[Any]:
    """What each process has, JSON, in the order of their ranks."""
    if world() == 1:
        return [own]
    with talking():
        data = json.dumps(own).encode()
        return [json.loads(_send(data, source)) for source in range(world())]


def union(own: dict[Path, str]) -> dict[Path, str]:
    """What any process has, by path."""
    if world() == 1:
        return own
    everyone = gathered({str(path): why for path, why in own.items()})
    return {Path(path): why for one in everyone for path, why in one.items()}


def fair(amount: int) -> int:
    """Of an amount that a machine has, what each of its processes may take: everywhere the same."""
    amount //= local("LOCAL_WORLD_SIZE", 1)
    return min(gathered(amount))


def in_turn(make: Callable[[], T]) -> T:
    """`make` by each machine's first process before the others: what it downloads is there then."""
    made = make() if first_here() else None
    gathered(None)
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
