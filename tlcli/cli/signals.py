"""How a long job is stopped, and which of its options were given."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import typer


@dataclass
class Stop:
    """The exit code of a job that is stopped: 130 by Ctrl-C, 143 by SIGTERM, as shells have it."""

    code: int = 130


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Let SIGTERM, which schedulers send, save what Ctrl-C would."""
    stop = Stop()

    def terminated(number: int, _: FrameType | None) -> None:
        stop.code = 128 + number
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield stop
    except KeyboardInterrupt as error:
        if stop.code == 130:
            raise
        typer.echo("terminated", err=True)
        raise typer.Exit(stop.code) from error
    finally:
        # A job of several processes that is ending keeps its own.
        if signal.getsignal(signal.SIGTERM) is terminated:
            signal.signal(signal.SIGTERM, before)


def is_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter was on the command line, and is not its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
