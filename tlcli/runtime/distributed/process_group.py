"""One job on several processes, on one machine or on many: torch.distributed, started by torchrun.

Every process runs the same code; where they meet are the helpers here, in `agree` (what all have to
know) and in `shares` (who does what). Of a process that is alone each of them is the identity, so
that nothing else asks whether there are others.

A process that ends badly closes its connections, by which the others notice, and torchrun sends
SIGTERM to those on every machine. Whichever comes first, the first process takes it as Ctrl-C
(`PeerLost`), saves what was best so far, and says why; the others end silently.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from tlcli.errors import UserError
from tlcli.reporter import Reporter

TIMEOUT = timedelta(hours=1)
"""How long one process waits for another, whose share may take longer. One that died is noticed at
once: its connections are closed."""
_WORD = timedelta(seconds=5)  # in which the first process says why the job ends, if it lives
_TOLD = "tlcli/told"

T = TypeVar("T")


class PeerLost(KeyboardInterrupt):
    """Another process of the job ended, so this one ends as an interrupted one does."""


class SilentReporter(Reporter):
    """For all processes but the first."""

    def warn(self, text: str) -> None:
        """Once is enough."""


@dataclass
class _Job:
    rank: int
    world_size: int
    store: Any
    ending: bool = False  # whoever ends talks to nobody any more
    lost: bool = False
    solo: bool = False  # while the first does something for all
    silent: bool = False  # another process has said why the job ends


_job: _Job | None = None


def _environment() -> tuple[int, int]:
    """Rank and world as torchrun tells them; a process without it is alone."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def torchrun_variable(name: str, without: int) -> int:
    """What torchrun says of this machine; `without` it something else."""
    return int(os.environ.get(name, without)) if _job else without


def rank() -> int:
    """This process' number in the job."""
    return _job.rank if _job else 0


def world_size() -> int:
    """How many processes there are to talk to, this one included."""
    return 1 if _job is None or _job.ending or _job.solo else _job.world_size


def is_rank0() -> bool:
    """Whether it is for this process to write and to speak."""
    return rank() == 0


def is_local_rank0() -> bool:
    """Whether this is its machine's first process."""
    return torchrun_variable("LOCAL_RANK", 0) == 0


def launched_as_rank0() -> bool:
    """As `is_rank0`, outside of `process_group` too."""
    return _environment()[0] == 0


@contextmanager
def process_group(reporter: Reporter) -> Iterator[Reporter]:
    """Be one of torchrun's processes in the block; gives the reporter that is this one's.

    Raises:
        UserError: what went wrong in one of them, in that one; or that another ended.
        SystemExit: in the others, which have nothing to add.
    """
    global _job
    if _environment()[1] == 1 or _job is not None:
        yield reporter
        return
    from torch import distributed as dist

    store, rank, world = next(dist.rendezvous("env://", timeout=TIMEOUT))
    both = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(both, store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    job = _job = _Job(rank, world, store)
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {s: signal.signal(s, _handle_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield reporter if is_rank0() else SilentReporter()
    except (KeyboardInterrupt, SystemExit):
        raise_if_lost()
        raise
    except UserError as error:
        # From here on signals do nothing: torchrun's SIGTERM must not cut the message off.
        job.ending = True
        if not job.lost and not _claim_last_word(job):
            raise SystemExit(error.exit_code) from error
        raise
    except Exception:
        job.ending = True
        _claim_last_word(job)
        raise
    if not job.ending:
        dist.destroy_process_group()
        for number, handler in before.items():
            signal.signal(number, handler)
        _job = None


def _claim_last_word(job: _Job) -> bool:
    """Whether this process is the first to say why the job ends."""
    try:
        return int(job.store.add(_TOLD, 1)) == 1
    except RuntimeError:  # torchrun itself is gone
        return job.rank == 0


def _handle_signal(number: int, frame: Any) -> None:  # noqa: ARG001
    """SIGINT and SIGTERM: the first process goes on to save what there is, the others end."""
    if _job is not None and not _job.ending:
        if number == signal.SIGTERM:
            _peer_lost(_job)
        _job.ending = True
        if _job.rank:
            raise SystemExit(128 + number)
        _claim_last_word(_job)
        raise KeyboardInterrupt


def _peer_lost(job: _Job) -> None:
    job.ending = job.lost = True
    if job.rank:
        raise SystemExit(1)
    job.silent = not _claim_last_word(job)
    raise PeerLost


def raise_if_lost(kept: str = "") -> None:
    """Say that the job ended because another process did; `kept` is what was saved of it.

    Raises:
        UserError: it did, and nobody else has said so.
        SystemExit: it did.
    """
    if _job is None or not _job.lost:
        return
    if _job.rank:
        try:
            _job.store.wait([_TOLD], _WORD)
            raise SystemExit(1)
        except RuntimeError:  # the first process is the one that died
            _claim_last_word(_job)
    elif _job.silent:
        raise SystemExit(1)
    raise UserError(
        f"another process of this job has ended, so all of them do{kept}",
        "was it killed, or out of memory? torchrun's summary names it",
    )


@contextmanager
def single_process() -> Iterator[None]:
    """What is done in the block is done by this process, as if there were no other."""
    if _job is None:
        yield
        return
    _job.solo = True
    yield
    _job.solo = False


@contextmanager
def detect_lost_peers() -> Iterator[None]:
    """Take a connection that broke for what it means."""
    try:
        yield
    except RuntimeError as error:
        gone = "gloo" in str(error) or isinstance(error, torch.distributed.DistError)
        if _job is None or world_size() == 1 or not gone:
            raise
        time.sleep(1)  # a signal on its way says more, and is acted on here
        _peer_lost(_job)


def iterate_watching_peers(items: Iterator[T]) -> Iterator[T]:
    """`items`, whose making talks to other processes (DDP's backward pass does)."""
    with detect_lost_peers():
        yield from items


def assign_device(device: torch.device) -> torch.device:
    """A CUDA device of its own for each process of a machine; the CPU is everyone's.

    Raises:
        UserError: there are not as many, or they cannot work together.
    """
    if world_size() == 1 or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UserError(f"--device {device}: several processes need cpu or cuda")
    here, there = torchrun_variable("LOCAL_RANK", 0), torch.cuda.device_count()
    if here >= there:
        raise UserError(
            f"{torchrun_variable('LOCAL_WORLD_SIZE', 1)} processes on a machine with {there} "
            "CUDA devices",
            f"--nproc-per-node {there}, or --device cpu",
        )
    torch.cuda.set_device(here)
    return torch.device("cuda", here)
