"""Check a folder of images: what `tlcli check` prints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.data.dataset import Dataset, scan
from tlcli.data.loader import find_unreadable
from tlcli.reporter import Reporter
from tlcli.runs.options import Options


@dataclass(frozen=True)
class CheckedFolder:
    """A folder of images as `finetune` would read it.

    Attributes:
        dataset: the images that can be read, by class and split, with `warnings` about them.
        unreadable: the other images, each with the reason.
    """

    dataset: Dataset
    unreadable: Mapping[Path, str]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per class: its name and its number of images in each split."""
        return [{"class": name, **counts} for name, counts in self.dataset.counts().items()]


def check(
    data: str | Path,
    *,
    val_fraction: float = Options.val_fraction,
    seed: int = Options.seed,
    reporter: Reporter | None = None,
) -> CheckedFolder:
    """Read a folder the way `finetune` would, and decode every image in it.

    Args:
        data, val_fraction, seed, reporter: as for `tlcli.finetune`.

    Raises:
        UserError: the folder has no layout that can be read, or too few readable images.
    """
    reporter = reporter or Reporter()
    dataset = scan(Path(data), val_fraction=val_fraction, seed=seed, reporter=reporter)
    samples = dataset.samples
    unreadable = find_unreadable([sample.path for sample in samples], reporter)
    dataset = dataset.without(unreadable)
    for warning in dataset.warnings:
        reporter.warn(warning)
    return CheckedFolder(dataset, unreadable)
