"""Files that are replaced atomically: readers see the old content or all of the new one."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def replace_file(
    path: Path,
    write: Callable[[Path], object],
    *,
    part_suffix: str = "",
    durable: bool = False,
) -> None:
    """Let `write` fill a file beside `path`, then rename it to `path`.

    Args:
        part_suffix: extension of the file that is filled, after ".part".
        durable: make sure that the file outlasts a loss of power, which takes time.

    Raises:
        OSError: the disk is full, the folder is not writable, and the like. `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part{part_suffix}")
    try:
        with part.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
        write(part)
        part.chmod(mode)  # some writers put a file of their own in its place
        if durable:
            _sync(part)
        part.replace(path)
        if durable:
            _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
