"""Helpers for folders of images, and the errors that scanning them raises."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tlcli.data.dataset import Sample, scan
from tlcli.errors import UserError

MakeImages = Callable[..., Path]


def image_names(folder: str, count: int) -> list[str]:
    """Name images of a folder."""
    return [f"{folder}/{index:03}.png" for index in range(count)]


def relative_paths(samples: tuple[Sample, ...], root: Path) -> list[str]:
    """Return the paths of samples below their root."""
    return [str(sample.path.relative_to(root)) for sample in samples]


def scan_error(root: Path, **options: float) -> UserError:
    """Scan a folder that is refused; return the error, which is one line with a hint."""
    with pytest.raises(UserError) as caught:
        scan(root, **options)
    assert caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value
