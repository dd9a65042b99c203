"""The images that a command line names."""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tlcli.data.folders import images_below
from tlcli.errors import UsageError


def expand(arguments: Iterable[str], null: bool = False) -> Iterator[Path]:
    """Files as they are; the images below a folder, sorted; for `-` the paths on stdin.

    A path that does not exist, or a folder without images, is passed on: it becomes a row with an
    error.

    Raises:
        UsageError: NUL-separated paths are asked for, but not `-`; or stdin is closed.
    """
    arguments = list(arguments)
    if null and "-" not in arguments:
        raise UsageError("-0 is about paths on stdin", "add - : tlcli predict -0 -")
    if "-" in arguments and sys.stdin is None:
        raise UsageError("- reads paths from stdin, and stdin is closed")
    for argument in arguments:
        if argument == "-":
            yield from _from_stdin(null)
        elif Path(argument).is_dir():
            found = images_below(Path(argument), set(), Counter())
            if not found:
                found = [Path(argument)]  # a row with an error
            yield from found
        else:
            yield Path(argument)


def _from_stdin(null: bool) -> Iterator[Path]:
    """Paths as bytes, since a file name need not be text."""
    if not null:
        for line in sys.stdin.buffer:
            if name := line.rstrip(b"\r\n"):
                yield Path(os.fsdecode(name))
        return
    rest = b""
    read = getattr(sys.stdin.buffer, "read1", sys.stdin.buffer.read)
    while block := read(65536):
        *names, rest = (rest + block).split(b"\0")
        yield from (Path(os.fsdecode(name)) for name in names if name)
    if rest:
        yield Path(os.fsdecode(rest))
