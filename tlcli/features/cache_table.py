"""One table of the feature cache: rows of one kind, in segments that are written atomically."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tlcli.runtime.atomic import replace_file

# How numpy spells each type of the rows; bf16, which it lacks, is stored as its bits.
_NUMPY_TYPES = {torch.float32: "<f4", torch.float16: "<f2", torch.bfloat16: "<u2"}
_TORCH_TYPES = {np.dtype(spelling): dtype for dtype, spelling in _NUMPY_TYPES.items()}

SEGMENT_BYTES = 8_000_000
"""Bytes of rows that are collected in memory before they are written as a segment."""
_MAX_SEGMENT_ROWS = 1 << 32  # more than a segment ever holds
_METADATA = "remarks.json"


def row_id(digest: str, view: str) -> bytes:
    """Return the id, 32 bytes, of the row of a view of the image with this content digest."""
    return hashlib.sha256(f"{digest}\0{view}".encode()).digest()


class CacheFolder(Protocol):
    """What a table uses of its cache."""

    broken: bool

    def tolerate_write_errors(self) -> AbstractContextManager[None]:
        """Turn an `OSError` in the block into a warning, and set `broken`."""


class CacheTable:
    """The cached rows of one kind, all of one shape and of the type they were computed in.

    A row is found by the image's content and view, never by a path: an image may move. Segments
    are whole files that are renamed into place, so two runs can write at once, and a killed run
    leaves nothing half written.

    Attributes:
        key: JSON of what the rows depend on.
        segments: The mapped segment files; `paths` are their files.
        locations: Where each stored row is: its segment times `_MAX_SEGMENT_ROWS`, plus its index.
        pending: The rows that are not yet written, by id.
    """

    def __init__(self, cache: CacheFolder, folder: Path, key: str) -> None:
        self.cache = cache
        self.key = key
        self.folder = folder
        self.segments: list[np.ndarray] = []
        self.paths: list[Path] = []
        self.locations: dict[bytes, int] = {}  # a tuple would take twice an integer's memory
        self.pending: dict[bytes, np.ndarray] = {}
        # One block for the pending rows. Rows with memory of their own, between the images', leave
        # gaps that no image fits into: half a gigabyte after 20,000 images.
        self._block: np.ndarray = np.empty(0)
        self._n_pending = 0
        for path in sorted(folder.glob("*.npy")):
            self._open(path)

    def __contains__(self, row: bytes) -> bool:
        return row in self.locations or row in self.pending

    def _open(self, path: Path, ids: Sequence[bytes] = ()) -> None:
        """Map a segment; `ids` are the ids of its rows, where they are known."""
        try:
            rows = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return  # Deleted by another run, or damaged: its rows are computed again.
        fields = rows.dtype.names
        if fields != ("id", "row") or rows.ndim != 1 or rows.dtype[1].base not in _TORCH_TYPES:
            return
        first = len(self.segments) * _MAX_SEGMENT_ROWS
        for location, row in enumerate(ids or rows["id"].tolist(), first):
            self.locations[row] = location
        self.segments.append(rows)
        self.paths.append(path)

    def fetch(self, ids: Sequence[bytes]) -> Tensor:
        """Return the rows of these ids, [len(ids), ...], all of which the table must hold."""
        for segment in {self.locations[i] // _MAX_SEGMENT_ROWS for i in ids if i in self.locations}:
            with suppress(OSError):
                os.utime(self.paths[segment])  # Used now, so it is the last to be trimmed.
        first = self._row(ids[0])
        rows = np.empty((len(ids), *first.shape), first.dtype)
        for index, row in enumerate(ids):
            rows[index] = self._row(row)
        return torch.from_numpy(rows).view(_TORCH_TYPES[first.dtype])

    def _row(self, row: bytes) -> np.ndarray:
        if row in self.pending:
            return self.pending[row]
        segment, index = divmod(self.locations[row], _MAX_SEGMENT_ROWS)
        found: np.ndarray = self.segments[segment]["row"][index]
        return found

    def add(self, ids: Sequence[bytes], values: Tensor) -> None:
        """Add rows, [len(ids), ...], and write a segment when it is full; known ids are skipped."""
        plain = values.view(torch.uint16) if values.dtype is torch.bfloat16 else values
        for row, value in zip(ids, plain.numpy(), strict=True):
            if row in self:
                continue  # the same image under another name
            if self._n_pending == len(self._block):
                self._block, self._n_pending = _empty_segment(value), 0
            self._block[self._n_pending] = row, value
            self.pending[row] = self._block["row"][self._n_pending]
            self._n_pending += 1
            if self._n_pending == len(self._block):
                self.flush()

    @property
    def metadata(self) -> dict[str, Any]:
        """What `set_metadata` stored beside the rows."""
        return load_json(self.folder / _METADATA)

    def set_metadata(self, name: str, value: Any) -> None:
        """Store a value of plain JSON types beside the rows; without rows, do nothing."""
        if self.cache.broken or not self.folder.exists():
            return
        with self.cache.tolerate_write_errors():
            store_json(self.folder / _METADATA, {**self.metadata, name: value})

    def flush(self) -> None:
        """Write the pending rows as a segment; they stay in memory if that fails."""
        if not self.pending or self.cache.broken:
            return
        segment = self.folder / f"{time.time_ns():x}-{os.getpid():x}.npy"
        with self.cache.tolerate_write_errors():
            replace_file(self.folder / "key.json", lambda part: part.write_text(self.key))
            replace_file(segment, self._write_segment)
            self._open(segment, list(self.pending))
            self.pending, self._n_pending = {}, 0

    def _write_segment(self, path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, self._block[: self._n_pending])


def _empty_segment(row: np.ndarray) -> np.ndarray:
    """Allocate a segment of rows like this one."""
    return np.empty(
        max(1, SEGMENT_BYTES // row.nbytes), [("id", "V32"), ("row", row.dtype, row.shape)]
    )


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if there is none or it cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def store_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object and rename it into place, so that nobody reads half of it."""
    replace_file(path, lambda part: part.write_text(json.dumps(content)))
