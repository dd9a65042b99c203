"""Stopping a long job: by Ctrl-C, or by the SIGTERM that schedulers send."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import typer


@dataclass
class Stop:
    """The exit code of a stopped job: 130 after Ctrl-C, 143 after SIGTERM, as in shells."""

    code: int = 130


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Make SIGTERM save the same as Ctrl-C does."""
    stop = Stop()

    def terminate(number: int, _: FrameType | None) -> None:
        stop.code = 128 + number
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield stop
    except KeyboardInterrupt as error:
        if stop.code == 130:
            raise
        typer.echo("terminated", err=True)
        raise typer.Exit(stop.code) from error
    finally:
        # A job of several processes that is ending has a handler of its own.
        if signal.getsignal(signal.SIGTERM) is terminate:
            signal.signal(signal.SIGTERM, before)
