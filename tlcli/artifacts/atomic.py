"""Files of runs and exports: written completely or not at all, with errors that a person reads."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcli.errors import UserError
from tlcli.runtime.atomic import replace_file

if TYPE_CHECKING:
    from torch import Tensor


class Unwritable(UserError):
    """A file could not be written, although nothing is wrong with its content."""


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then rename it to `path`.

    That file has the same extension, because some writers go by it.

    Raises:
        Unwritable: the disk is full, the folder is not writable, and the like. `path` stays as it
            was.
    """
    try:
        replace_file(path, write, part_suffix=path.suffix, durable=True)
    except OSError as error:
        raise Unwritable(
            f"{path} cannot be written: {error.strerror or error}",
            "check the free space and the permissions of its folder",
        ) from error


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # A tensor that shares memory or is a channels-last view is stored as a plain one of its own.
    plain = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}

    def write(part: Path) -> None:
        try:
            save_file(plain, part, metadata=metadata)
        except SafetensorError as error:  # which a full disk becomes
            raise OSError(str(error)) from error

    write_atomic(path, write)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    write_atomic(path, lambda p: p.write_text(text, encoding="utf-8", errors="surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=True) + "\n")


def unfinished_files(folder: Path) -> list[Path]:
    """Find the files below `folder` that a killed process left, or another is writing now.

    Beside our own these are the temporary files of safetensors (0.8 and later).
    """
    patterns = (".*.part*", ".tmp??????")
    return [p for depth in ("", "*/") for name in patterns for p in folder.glob(f"{depth}{name}")]
