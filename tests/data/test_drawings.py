"""The drawn sample folder: reproducible, and with separable classes."""

import time
from pathlib import Path

import pytest
from PIL import Image

from tlcli.data.dataset import scan
from tlcli.data.decode import decode
from tlcli.data.drawings.sample import draw_sample
from tlcli.errors import UserError


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_the_drawn_folder_is_scanned_without_a_warning(tmp_path: Path) -> None:
    start = time.perf_counter()
    classes = draw_sample(tmp_path / "new" / "flowers", per_class=24, size=64)
    assert time.perf_counter() - start < 5
    assert classes == ["daisy", "lavender", "rose", "sunflower", "tulip"]
    dataset = scan(tmp_path / "new" / "flowers")
    assert dataset.classes == tuple(classes)
    assert dataset.warnings == ()
    assert {sum(n.values()) for n in dataset.counts().values()} == {24}
    for sample in dataset.train:
        assert decode(sample.path).size == (64, 64)
    readme = (tmp_path / "new" / "flowers" / "README.txt").read_text()
    assert "drawings made by tlcli" in readme
    assert "not photographs" in readme


def test_the_same_seed_draws_the_same_bytes_and_a_larger_folder_only_adds(tmp_path: Path) -> None:
    for name, arguments in {
        "a": {"per_class": 3},
        "b": {"per_class": 3},
        "more": {"per_class": 4},
        "seed": {"per_class": 3, "seed": 1},
    }.items():
        draw_sample(tmp_path / name, size=64, **arguments)
    a = contents(tmp_path / "a")
    assert contents(tmp_path / "b") == a
    assert contents(tmp_path / "more").items() > a.items()
    other = contents(tmp_path / "seed")
    assert [name for name in a if a[name] == other[name]] == ["README.txt"]
    assert len(set(a.values())) == len(a)


def test_the_classes_are_separable_but_not_trivially(tmp_path: Path) -> None:
    """A nearest neighbor on coarse colors is better than chance and not perfect."""
    draw_sample(tmp_path / "flowers", per_class=30, size=64)
    samples = scan(tmp_path / "flowers").train
    coarse = [decode(s.path).resize((6, 6), Image.Resampling.BOX).tobytes() for s in samples]
    right = 0
    for index, sample in enumerate(samples):
        others = (i for i in range(len(samples)) if i != index)
        nearest = min(
            others,
            key=lambda i: sum(abs(a - b) for a, b in zip(coarse[i], coarse[index], strict=True)),
        )
        right += samples[nearest].label == sample.label
    assert 0.3 < right / len(samples) < 0.95


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="is not empty"):
        draw_sample(tmp_path)
    assert contents(tmp_path) == {"mine.txt": b"keep"}
    with pytest.raises(UserError, match="cannot be written"):
        draw_sample(tmp_path / "mine.txt")


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert draw_sample(tmp_path, per_class=1, size=64)
