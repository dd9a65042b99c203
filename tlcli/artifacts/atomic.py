"""Files that are either whole or not there."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcli.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


class Unwritable(UserError):
    """A file could not be written, though nothing is wrong with what was to be in it."""


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then rename it into place.

    Raises:
        Unwritable: the disk is full, the folder is not writable, and the like; `path` is then
            what it was before.
    """
    beside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # the suffix stays: some writers go by it
        ends = f".part{path.suffix}"
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=ends)
        os.close(handle)
        beside = Path(name)
        write(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.chmod(0o666 & ~_umask())
        beside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise Unwritable(
            f"{path} cannot be written: {error.strerror or error}",
            "check the free space and the permissions of its folder",
        ) from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: dict[str, str]) -> None:
    """A safetensors file, whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # A tensor that shares memory or is a channels-last view is stored as a plain one of its own.
    plain = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}

    def write(part: Path) -> None:
        try:
            save_file(plain, part, metadata=metadata)
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from error

    write_atomic(path, write)


def write_parts(folder: Path) -> list[Path]:
    """What processes that were killed, or are at work, have half written below `folder`.

    Beside our own parts those that safetensors (from 0.8) writes for itself.
    """
    patterns = (".*.part*", ".tmp??????")
    return [p for where in ("", "*/") for end in patterns for p in folder.glob(f"{where}{end}")]


def write_text(path: Path, text: str) -> None:
    """`text` as UTF-8, whole or not at all."""
    write_atomic(path, lambda p: p.write_text(text, encoding="utf-8", errors="surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=True) + "\n")


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlast a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
