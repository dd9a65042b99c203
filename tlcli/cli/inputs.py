"""What a command line names: images, and models."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import typer

from tlcli.errors import UsageError

MODEL_VARIABLE = "TLCLI_MODEL"
WITHOUT_MODEL = f"${MODEL_VARIABLE}, else the newest finished run in ./runs"
TTA = typer.Option(
    "none",
    "--tta",
    help="Average over several views of each image: flip (and its mirror image), 5 (centre and "
    "corners), 10 (those and their mirror images); so many times the work.",
)


def model_or_default(named: Sequence[str] | None) -> list[str] | None:
    """The models that were named, else the one in $TLCLI_MODEL; None for the newest run."""
    if named:
        return list(named)
    set_one = os.environ.get(MODEL_VARIABLE)
    return [set_one] if set_one else None


def images(
    arguments: Sequence[str], null: bool = False, stdin_image: bool = False
) -> Iterator[Path | bytes]:
    """The images that the arguments name, as paths; or the one whose bytes are on stdin.

    Files as they are; the images below a folder, sorted; what a quoted pattern matches, sorted;
    for `-` the paths on stdin. A path that does not exist, a pattern that matches nothing and a
    folder without images are passed on: each becomes a row with an error.

    Raises:
        UsageError: nothing is named; options that contradict each other; stdin is closed.
    """
    if stdin_image and (arguments or null):
        raise UsageError("--stdin-image takes the image's bytes from stdin, and nothing beside it")
    if null and "-" not in arguments:
        raise UsageError("-0 is about paths on stdin", "add - : tlcli predict -0 -")
    if not arguments and not stdin_image:
        raise UsageError("no image is named", "give files or folders, or - for paths on stdin")
    if (stdin_image or "-" in arguments) and sys.stdin is None:
        raise UsageError("an image or paths are to be read from stdin, and stdin is closed")
    return iter([sys.stdin.buffer.read()]) if stdin_image else _paths(arguments, null)


def _paths(arguments: Iterable[str], null: bool) -> Iterator[Path]:
    from tlcli.data.folders import find_images

    for argument in arguments:
        path = Path(argument)
        if argument == "-":
            yield from _from_stdin(b"\0" if null else b"\n")
        elif path.is_dir():
            yield from find_images(path, set(), Counter()) or [path]
        elif glob.has_magic(argument) and not path.exists():
            # Path.glob takes no absolute pattern.
            matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207
            if "**" in argument:  # the folders that it matches are the way to the files in them
                matches = [match for match in matches if not Path(match).is_dir()]
            yield from _paths(matches, null) if matches else [path]
        else:
            yield path


def _from_stdin(end: bytes) -> Iterator[Path]:
    """Paths as bytes, since a file name need not be text, and as soon as each is complete."""
    read, rest = _reader(), b""
    while block := read(65536):
        *names, rest = (rest + block).split(end)
        yield from _named(names, end)
    yield from _named([rest], end)


def _named(names: Iterable[bytes], end: bytes) -> Iterator[Path]:
    for name in names:
        name = name.removesuffix(b"\r") if end == b"\n" else name
        if name:
            yield Path(os.fsdecode(name))


def _reader() -> Callable[[int], bytes]:
    """Reads what there is on stdin, without the lock that a waiting read holds at exit."""
    try:
        return partial(os.read, sys.stdin.fileno())
    except (OSError, ValueError):  # not a real file, as in tests
        return sys.stdin.buffer.read
