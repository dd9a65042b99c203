"""One job on several processes, on one machine or many: torch.distributed, started by torchrun.

Every process runs the same code. They meet in the functions of `collectives` (what all of them
must know) and `sharding` (who does what). In a single process each of these returns its input, so
nothing else asks whether there are other processes.

A process that ends badly closes its connections, which the others notice, and torchrun sends
SIGTERM to the processes on every machine. Whichever comes first, rank 0 takes it as Ctrl-C
(`PeerLost`), saves the best result so far, and says why; the others end silently.
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

PEER_TIMEOUT = timedelta(hours=1)
"""Longest time that a process waits for another, whose shard may take longer to compute. One that
died is noticed at once, because its connections are closed."""
_REPORT_TIMEOUT = timedelta(seconds=5)  # for rank 0 to report why the job ends, if it is alive
_REPORTED_KEY = "tlcli/told"  # in torchrun's store

T = TypeVar("T")


class PeerLost(KeyboardInterrupt):
    """Raised in rank 0 when another process of the job ended; handled like Ctrl-C."""


class SilentReporter(Reporter):
    """The reporter of all processes but rank 0: it drops everything, warnings too."""

    def warn(self, text: str) -> None:
        """Drop the warning, which rank 0 gives."""


@dataclass
class _Job:
    """The state of this process in its job.

    Attributes:
        store: torchrun's key-value store, which all processes share.
        closing: Whether this process is ending, so that it exchanges nothing more.
        peer_lost: Whether it ends because another process did.
        on_rank0_only: Whether rank 0 is doing something for all.
        reported: Whether another process has reported why the job ends.
    """

    rank: int
    world_size: int
    store: Any
    closing: bool = False
    peer_lost: bool = False
    on_rank0_only: bool = False
    reported: bool = False


_job: _Job | None = None


def _environment() -> tuple[int, int]:
    """Return the rank and world size that torchrun set; (0, 1) without torchrun."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def torchrun_env(name: str, default: int) -> int:
    """Return an integer that torchrun set in the environment; `default` outside of a job."""
    return int(os.environ.get(name, default)) if _job else default


def rank() -> int:
    """Return this process's number in the job, from 0."""
    return _job.rank if _job else 0


def world_size() -> int:
    """Return the number of processes that take part, this one included."""
    return 1 if _job is None or _job.closing or _job.on_rank0_only else _job.world_size


def is_rank0() -> bool:
    """Return whether this process is the one that writes and reports."""
    return rank() == 0


def is_local_rank0() -> bool:
    """Return whether this is the first process on its machine."""
    return torchrun_env("LOCAL_RANK", 0) == 0


def launched_as_rank0() -> bool:
    """Return whether torchrun started this process as rank 0; works outside of `process_group`."""
    return _environment()[0] == 0


@contextmanager
def process_group(reporter: Reporter) -> Iterator[Reporter]:
    """Join torchrun's process group for the block, and yield this process's reporter.

    Raises:
        UserError: in the process where something went wrong, or where another was found lost.
        SystemExit: in the other processes.
    """
    global _job
    if _environment()[1] == 1 or _job is not None:
        yield reporter
        return
    from torch import distributed as dist

    store, rank, world = next(dist.rendezvous("env://", timeout=PEER_TIMEOUT))
    both = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(both, store=store, rank=rank, world_size=world, timeout=PEER_TIMEOUT)
    job = _job = _Job(rank, world, store)
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {s: signal.signal(s, _handle_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield reporter if is_rank0() else SilentReporter()
    except (KeyboardInterrupt, SystemExit):
        raise_if_peer_lost()
        raise
    except UserError as error:
        # From now on signals are ignored: torchrun's SIGTERM must not cut the message off.
        job.closing = True
        if not job.peer_lost and not _claim_report(job):
            raise SystemExit(error.exit_code) from error
        raise
    except Exception:
        job.closing = True
        _claim_report(job)
        raise
    if not job.closing:
        dist.destroy_process_group()
        for number, handler in before.items():
            signal.signal(number, handler)
        _job = None


def _claim_report(job: _Job) -> bool:
    """Return whether this process is the first to report why the job ends, and so has to."""
    try:
        return int(job.store.add(_REPORTED_KEY, 1)) == 1
    except RuntimeError:  # torchrun itself is gone
        return job.rank == 0


def _handle_signal(number: int, frame: Any) -> None:  # noqa: ARG001
    """Handle SIGINT and SIGTERM: rank 0 saves what there is, the others end."""
    if _job is not None and not _job.closing:
        if number == signal.SIGTERM:
            _end_after_lost_peer(_job)
        _job.closing = True
        if _job.rank:
            raise SystemExit(128 + number)
        _claim_report(_job)
        raise KeyboardInterrupt


def _end_after_lost_peer(job: _Job) -> None:
    """End this process because another did: rank 0 by `PeerLost`, the others at once."""
    job.closing = job.peer_lost = True
    if job.rank:
        raise SystemExit(1)
    job.reported = not _claim_report(job)
    raise PeerLost


def raise_if_peer_lost(saved: str = "") -> None:
    """Raise if the job ended because another process did.

    Args:
        saved: The end of the message: what was saved, and how to resume.

    Raises:
        UserError: a process was lost, and no other process has reported it.
        SystemExit: a process was lost, and another process has reported it.
    """
    if _job is None or not _job.peer_lost:
        return
    if _job.rank:
        try:
            _job.store.wait([_REPORTED_KEY], _REPORT_TIMEOUT)
            raise SystemExit(1)
        except RuntimeError:  # rank 0 is the one that died
            _claim_report(_job)
    elif _job.reported:
        raise SystemExit(1)
    raise UserError(
        f"another process of this job has ended, so the job ends{saved}",
        "it may have been killed or run out of memory; torchrun's summary names it",
    )


@contextmanager
def single_process() -> Iterator[None]:
    """Run the block as if this process were alone: `world_size` is 1 in it."""
    if _job is None:
        yield
        return
    _job.on_rank0_only = True
    yield
    _job.on_rank0_only = False


@contextmanager
def detect_lost_peers() -> Iterator[None]:
    """Treat a broken connection in the block as a lost process."""
    try:
        yield
    except RuntimeError as error:
        gone = "gloo" in str(error) or isinstance(error, torch.distributed.DistError)
        if _job is None or world_size() == 1 or not gone:
            raise
        time.sleep(1)  # A signal that is on its way says more; it is handled here.
        _end_after_lost_peer(_job)


def iterate_detecting_lost_peers(items: Iterator[T]) -> Iterator[T]:
    """Yield `items` whose computation exchanges data between processes, as DDP's backward does."""
    with detect_lost_peers():
        yield from items
