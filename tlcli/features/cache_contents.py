"""The feature cache as people see it: what it holds, and clearing it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.features.cache import FeatureCache, default_cache_dir


@dataclass(frozen=True)
class CacheContents:
    """What the feature cache holds.

    Attributes:
        folder: the cache's folder.
        tables: one row per cache table: `backbone`, `cut`, `numbers` (the precision), `images`
            (views included), `size_mb`, `used` (when) and `weights`.
        freed_mb: size of what was deleted, in 10^6 bytes.
    """

    folder: Path
    tables: tuple[dict[str, Any], ...]
    freed_mb: float = 0.0

    @property
    def size_mb(self) -> float:
        """Size of all tables, in 10^6 bytes."""
        return sum((table["size_mb"] for table in self.tables), 0.0)


def cache(*, clear: bool = False) -> CacheContents:
    """List what the feature cache holds.

    Args:
        clear: delete everything in it first.
    """
    store = FeatureCache(default_cache_dir())
    freed = store.clear() if clear else 0
    return CacheContents(store.folder, tuple(store.entries()), freed / 1e6)
