"""Fixtures for folders of images."""

from pathlib import Path

import pytest
from PIL import Image

from tests.data.image_folders import MakeImages


@pytest.fixture
def make_images(tmp_path: Path) -> MakeImages:
    """Return a function that makes files below a folder; without content, different images."""
    number = 0

    def files(*names: str, of: bytes | None = None) -> Path:
        nonlocal number
        root = tmp_path / "flowers"
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if of is not None:
                path.write_bytes(of)
            else:
                number += 1
                Image.new("RGB", (4, 4), (number % 256, number // 256, 7)).save(path)
        return root

    return files
