"""Activations on disk, kept by what they depend on, so that no image is computed twice.

A shelf holds the activations of one kind: of one cut of one backbone with certain weights, in
certain numbers. A row is filed under the image's content and view. Rows are written in segments,
each a whole file that is renamed into place, so that two runs can write at once and a run that is
killed leaves nothing half written. No path is part of any key: an image may move.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor

from tlcli.reporter import Reporter
from tlcli.runtime.distributed.process_group import is_local_rank0

# What rows are of, and how numpy spells it; bf16, which it lacks, as its bits.
_SPELT = {torch.float32: "<f4", torch.float16: "<f2", torch.bfloat16: "<u2"}
_TYPES = {np.dtype(spelt): dtype for dtype, spelt in _SPELT.items()}

SEGMENT_BYTES = 8_000_000
"""Bytes of rows that are gathered in memory before they are written."""
STALE = 86_400.0
"""Seconds after which an unfinished file is taken for a dead run's."""
VERDICTS = "verdicts.json"
_STRIDE = 1 << 32  # more rows than a segment holds


def default_cache_dir() -> Path:
    """$TLCLI_CACHE, else the platform's cache folder."""
    return Path(os.environ.get("TLCLI_CACHE") or user_cache_path("tlcli")) / "features"


@dataclass
class FeatureCache:
    """The shelves below a folder; `limit` is in bytes."""

    folder: Path
    limit: int = sys.maxsize
    reporter: Reporter = field(default_factory=Reporter)
    broken: bool = False

    def table(self, key: Mapping[str, Any]) -> "CacheTable":
        """The shelf for `key` (plain JSON types)."""
        text = json.dumps(key, sort_keys=True)
        return CacheTable(self, self.folder / hashlib.sha256(text.encode()).hexdigest()[:32], text)

    @contextmanager
    def trying(self) -> Iterator[None]:
        """A full or unwritable disk costs the cache, not the run."""
        try:
            yield
        except OSError as error:
            if not self.broken:
                self.reporter.warn(
                    f"the feature cache in {self.folder} cannot be written "
                    f"({error.strerror or error}); going on without"
                )
            self.broken = True

    def entries(self) -> list[dict[str, Any]]:
        """What each shelf holds: its key's fields, images (views counted), MB, and when it was
        used last."""
        found = []
        for key in sorted(self.folder.glob("*/key.json")):
            try:
                stats = [path.stat() for path in key.parent.glob("*.npy")]
                what = json.loads(key.read_text())
            except (OSError, ValueError):
                continue  # cleared by somebody else just now
            used = max((s.st_mtime for s in stats), default=key.stat().st_mtime)
            found.append(
                {
                    **what,
                    "images": len(CacheTable(self, key.parent, "").where),
                    "size_mb": sum(s.st_size for s in stats) / 1e6,
                    "used": time.strftime("%Y-%m-%d %H:%M", time.localtime(used)),
                }
            )
        return found

    def trim(self) -> int:
        """Delete the segments that were used longest ago until the rest fits; bytes freed."""
        segments = []
        with self.trying():
            for path in self.folder.glob("*/*"):
                stat = path.stat()
                if path.suffix == ".npy":
                    segments.append((stat.st_mtime, stat.st_size, path))
                elif path.suffix == ".part" and stat.st_mtime < time.time() - STALE:
                    path.unlink(missing_ok=True)
        excess = sum(size for _, size, _ in segments) - self.limit
        freed = 0
        for _, size, path in sorted(segments):
            if freed >= excess:
                break
            path.unlink(missing_ok=True)
            freed += size
            if not list(path.parent.glob("*.npy")):
                shutil.rmtree(path.parent, ignore_errors=True)
        return freed

    def clear(self) -> int:
        """Delete everything; bytes freed."""
        freed = 0
        for path in self.folder.glob("*/*.npy"):
            with suppress(OSError):  # trimmed by another run just now
                freed += path.stat().st_size
        for key in self.folder.glob("*/key.json"):
            shutil.rmtree(key.parent, ignore_errors=True)
        (self.folder / VERDICTS).unlink(missing_ok=True)
        return freed

    def verdicts(self) -> dict[str, str]:
        """What `note_verdict` noted, by name."""
        return _read(self.folder / VERDICTS)

    def note_verdict(self, name: str, verdict: str) -> None:
        """Note something short that took time to find out."""
        if not self.broken:
            with self.trying():
                self.folder.mkdir(parents=True, exist_ok=True)
                _write(self.folder / VERDICTS, {**self.verdicts(), name: verdict})


def row_id(digest: str, view: str) -> bytes:
    """Under what the row of a view of an image is filed: 32 bytes."""
    return hashlib.sha256(f"{digest}\0{view}".encode()).digest()


class CacheTable:
    """The rows of one kind, all of one shape and type: the one that they were computed in."""

    def __init__(self, cache: FeatureCache, folder: Path, key: str) -> None:
        self.cache = cache
        self.key = key
        self.folder = folder
        self.segments: list[np.ndarray] = []
        self.paths: list[Path] = []
        # The segment times `_STRIDE` and the row in it: a tuple would take twice the memory.
        self.where: dict[bytes, int] = {}
        self.pending: dict[bytes, np.ndarray] = {}
        # Where pending rows lie. Rows that each had memory of their own between the pictures' would
        # leave gaps that no picture fits in: of 20,000 images they were half a gigabyte.
        self.room: np.ndarray = np.empty(0)
        self.filled = 0
        for path in sorted(folder.glob("*.npy")):
            self._open(path)

    def __contains__(self, row: bytes) -> bool:
        return row in self.where or row in self.pending

    def _open(self, path: Path, ids: Sequence[bytes] = ()) -> None:
        """Map a segment; `ids` are its rows', where they are known."""
        try:
            rows = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return  # deleted by another run, or damaged: its rows are computed again
        if rows.dtype.names != ("id", "row") or rows.ndim != 1 or rows.dtype[1].base not in _TYPES:
            return
        first = len(self.segments) * _STRIDE
        for number, row in enumerate(ids or rows["id"].tolist(), first):
            self.where[row] = number
        self.segments.append(rows)
        self.paths.append(path)

    def fetch(self, rows: Sequence[bytes]) -> Tensor:
        """[len(rows), ...], as they were filed; all must be there."""
        for segment in {self.where[row] // _STRIDE for row in rows if row in self.where}:
            with suppress(OSError):
                os.utime(self.paths[segment])  # used now: the last to go
        first = self._row(rows[0])
        out = np.empty((len(rows), *first.shape), first.dtype)
        for index, row in enumerate(rows):
            out[index] = self._row(row)
        return torch.from_numpy(out).view(_TYPES[first.dtype])

    def _row(self, row: bytes) -> np.ndarray:
        if row in self.pending:
            return self.pending[row]
        segment, index = divmod(self.where[row], _STRIDE)
        found: np.ndarray = self.segments[segment]["row"][index]
        return found

    def add(self, rows: Sequence[bytes], values: Tensor) -> None:
        """File [len(rows), ...] and write when there is enough of it; what is there stays."""
        plain = values.view(torch.uint16) if values.dtype is torch.bfloat16 else values
        for row, value in zip(rows, plain.numpy(), strict=True):
            if row in self:
                continue  # the same picture under another name
            if self.filled == len(self.room):
                self.room, self.filled = _room(value), 0
            self.room[self.filled] = row, value
            self.pending[row] = self.room["row"][self.filled]
            self.filled += 1
            if self.filled == len(self.room):
                self.flush()

    @property
    def remarks(self) -> dict[str, Any]:
        """What `remark` left here: plain JSON, of whoever computed the rows."""
        return _read(self.folder / "remarks.json")

    def remark(self, name: str, value: Any) -> None:
        """Leave something beside the rows."""
        if self.cache.broken or not self.folder.exists():
            return
        with self.cache.trying():
            _write(self.folder / "remarks.json", {**self.remarks, name: value})

    def flush(self) -> None:
        """Write what is pending as a segment of its own; it stays in memory where that fails."""
        if not self.pending or self.cache.broken:
            return
        name = f"{time.time_ns():x}-{os.getpid():x}"
        beside = self.folder / f".{name}.part"
        with self.cache.trying():
            self.folder.mkdir(parents=True, exist_ok=True)
            about = self.folder / f".key-{name}.part"
            about.write_text(self.key)
            about.replace(self.folder / "key.json")
            with beside.open("wb") as file:
                np.save(file, self.room[: self.filled])
            beside.replace(self.folder / f"{name}.npy")
            self._open(self.folder / f"{name}.npy", list(self.pending))
            self.pending, self.filled = {}, 0
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Renamed into place, so that nobody reads half of it."""
    beside = path.with_name(f".{path.stem}-{time.time_ns():x}-{os.getpid():x}.part")
    beside.write_text(json.dumps(content))
    beside.replace(path)


def _room(row: np.ndarray) -> np.ndarray:
    """For a segment of such rows, nothing in it yet."""
    return np.empty(
        max(1, SEGMENT_BYTES // row.nbytes), [("id", "V32"), ("row", row.dtype, row.shape)]
    )


@contextmanager
def feature_cache(keep: bool, limit_gb: float, reporter: Reporter) -> Iterator[FeatureCache]:
    """Open the cache and trim it to `limit_gb` at the end; a temporary one without `keep`."""
    limit = round(limit_gb * 1e9)
    if not keep:
        with tempfile.TemporaryDirectory(prefix="tlcli-") as folder:
            yield FeatureCache(Path(folder), limit, reporter)
        return
    cache = FeatureCache(default_cache_dir(), limit, reporter)
    try:
        yield cache
    finally:
        if is_local_rank0():
            cache.trim()
