"""The images and models that a command line names."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tlcli.cli.flags import MODEL_VARIABLE
from tlcli.errors import UsageError


def model_or_default(named: Sequence[str] | None) -> list[str] | None:
    """Return the named models, else the one in $TLCLI_MODEL, else None for the newest run."""
    if named:
        return list(named)
    from_environment = os.environ.get(MODEL_VARIABLE)
    return [from_environment] if from_environment else None


def images(
    arguments: Sequence[str], null: bool = False, stdin_image: bool = False
) -> Iterator[Path | bytes]:
    """Yield the paths of the images that the arguments name, or the bytes of one on stdin.

    An argument is a file, a folder (its images, sorted), a quoted pattern (its matches, sorted) or
    `-` (the paths on stdin). A path that does not exist, a pattern without a match and a folder
    without images are passed on: each becomes a row with an error.

    Raises:
        UsageError: no image is named, options contradict each other, or stdin is closed.
    """
    if stdin_image and (arguments or null):
        raise UsageError(
            "--stdin-image reads one image from stdin, so no other image can be named",
            "leave the paths and -0 out",
        )
    if null and "-" not in arguments:
        raise UsageError("-0 needs paths on stdin", "add - as in: tlcli predict -0 -")
    if not arguments and not stdin_image:
        raise UsageError("no image is named", "give files or folders, or - for paths on stdin")
    if (stdin_image or "-" in arguments) and sys.stdin is None:
        raise UsageError("stdin is closed, so nothing can be read from it")
    return iter([sys.stdin.buffer.read()]) if stdin_image else _paths(arguments, null)


def _paths(arguments: Iterable[str], null: bool) -> Iterator[Path]:
    from tlcli.data.folders import find_images

    for argument in arguments:
        path = Path(argument)
        if argument == "-":
            yield from _paths_on_stdin(b"\0" if null else b"\n")
        elif path.is_dir():
            yield from find_images(path, set(), Counter()) or [path]
        elif glob.has_magic(argument) and not path.exists():
            # Path.glob takes no absolute pattern.
            matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207
            if "**" in argument:  # matches the folders on the way to the files too
                matches = [match for match in matches if not Path(match).is_dir()]
            yield from _paths(matches, null) if matches else [path]
        else:
            yield path


def _paths_on_stdin(end: bytes) -> Iterator[Path]:
    """Yield each path as soon as it is complete; read as bytes, since a name need not be text."""
    read, rest = _stdin_reader(), b""
    while block := read(65536):
        *names, rest = (rest + block).split(end)
        yield from _decoded(names, end)
    yield from _decoded([rest], end)


def _decoded(names: Iterable[bytes], end: bytes) -> Iterator[Path]:
    for name in names:
        path = name.removesuffix(b"\r") if end == b"\n" else name
        if path:
            yield Path(os.fsdecode(path))


def _stdin_reader() -> Callable[[int], bytes]:
    """Return a function that reads what has arrived on stdin.

    `sys.stdin.read` would hold a lock while it waits, which Python needs at exit.
    """
    try:
        return partial(os.read, sys.stdin.fileno())
    except (OSError, ValueError):  # not a real file, as in tests
        return sys.stdin.buffer.read
