"""The feature cache on disk: features by what they depend on, so that none is computed twice.

A table holds the features of one kind: at one cut of one backbone with certain weights, in one
precision. See `CacheTable` for its rows.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from tlcli.features.cache_table import CacheTable, load_json, store_json
from tlcli.reporter import Reporter
from tlcli.runtime.distributed.process_group import is_local_rank0

STALE_SECONDS = 86_400.0
"""Age from which an unfinished file is taken for a dead run's and deleted."""
_VERDICTS = "verdicts.json"


def default_cache_dir() -> Path:
    """Return $TLCLI_CACHE, or the platform's cache folder."""
    return Path(os.environ.get("TLCLI_CACHE") or user_cache_path("tlcli")) / "features"


@dataclass
class FeatureCache:
    """The cache tables in a folder.

    Attributes:
        limit: Bytes that the cache may take.
        broken: Whether writing failed; then nothing more is written.
    """

    folder: Path
    limit: int = sys.maxsize
    reporter: Reporter = field(default_factory=Reporter)
    broken: bool = False

    def table(self, key: Mapping[str, Any]) -> CacheTable:
        """Open the table of features that depend on `key` (plain JSON types)."""
        text = json.dumps(key, sort_keys=True)
        return CacheTable(self, self.folder / hashlib.sha256(text.encode()).hexdigest()[:32], text)

    @contextmanager
    def tolerate_write_errors(self) -> Iterator[None]:
        """Turn an `OSError` in the block into a warning, so that a full disk ends no run."""
        try:
            yield
        except OSError as error:
            if not self.broken:
                self.reporter.warn(
                    f"the feature cache in {self.folder} cannot be written "
                    f"({error.strerror or error}); continuing without it"
                )
            self.broken = True

    def entries(self) -> list[dict[str, Any]]:
        """Describe each table: the fields of its key, images (views counted), MB, last use."""
        found = []
        for key in sorted(self.folder.glob("*/key.json")):
            try:
                stats = [path.stat() for path in key.parent.glob("*.npy")]
                fields = json.loads(key.read_text())
            except (OSError, ValueError):
                continue  # just deleted by another run
            used = max((s.st_mtime for s in stats), default=key.stat().st_mtime)
            found.append(
                {
                    **fields,
                    "images": len(CacheTable(self, key.parent, "").locations),
                    "size_mb": sum(s.st_size for s in stats) / 1e6,
                    "used": time.strftime("%Y-%m-%d %H:%M", time.localtime(used)),
                }
            )
        return found

    def trim(self) -> int:
        """Delete the least recently used segments until the rest fits; return the bytes freed."""
        segments = []
        with self.tolerate_write_errors():
            for path in self.folder.glob("*/*"):
                stat = path.stat()
                if path.suffix == ".npy":
                    segments.append((stat.st_mtime, stat.st_size, path))
                elif path.suffix == ".part" and stat.st_mtime < time.time() - STALE_SECONDS:
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
        """Delete all tables and verdicts; return the bytes freed."""
        freed = 0
        for path in self.folder.glob("*/*.npy"):
            with suppress(OSError):  # just trimmed by another run
                freed += path.stat().st_size
        for key in self.folder.glob("*/key.json"):
            shutil.rmtree(key.parent, ignore_errors=True)
        (self.folder / _VERDICTS).unlink(missing_ok=True)
        return freed

    def verdicts(self) -> dict[str, str]:
        """Return the stored verdicts by name."""
        return load_json(self.folder / _VERDICTS)

    def add_verdict(self, name: str, verdict: str) -> None:
        """Store a short result that took time to find."""
        if not self.broken:
            with self.tolerate_write_errors():
                self.folder.mkdir(parents=True, exist_ok=True)
                store_json(self.folder / _VERDICTS, {**self.verdicts(), name: verdict})


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
