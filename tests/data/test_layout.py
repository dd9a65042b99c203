"""Folder layouts: classes, splits, links, and an error for each folder that is none."""

import os
from pathlib import Path

import pytest

from tests.data.image_folders import MakeImages, image_names, relative_paths, scan_error
from tlcli.data.dataset import scan
from tlcli.data.loader import find_unreadable


def test_class_folders_with_nesting_and_sorted_names(make_images: MakeImages) -> None:
    root = make_images(
        *image_names("tulips", 20), *image_names("roses/old/red", 15), *image_names("roses", 5)
    )
    dataset = scan(root)
    assert dataset.classes == ("roses", "tulips")
    assert dataset.layout == "classes"
    assert dataset.warnings == ()
    assert dataset.test == ()
    for part in (dataset.train, dataset.val):
        assert relative_paths(part, root) == sorted(relative_paths(part, root))
    found = sorted(relative_paths((*dataset.train, *dataset.val), root))
    assert found == sorted(
        [*image_names("tulips", 20), *image_names("roses/old/red", 15), *image_names("roses", 5)]
    )
    for sample in (*dataset.train, *dataset.val):
        assert sample.path.relative_to(root).parts[0] == dataset.classes[sample.label]
        assert len(sample.digest) == 64
    counts = dataset.counts()
    assert {name: n["train"] + n["val"] for name, n in counts.items()} == {
        "roses": 20,
        "tulips": 20,
    }
    assert all(n["val"] >= 1 and n["test"] == 0 for n in counts.values())


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_train_and_val_as_given(make_images: MakeImages, name: str) -> None:
    root = make_images(
        *image_names("train/a", 3),
        *image_names("train/b", 2),
        *image_names(f"{name}/a", 1),
        f"{name}/b/x.jpeg",
    )
    make_images("test/a/t.png")
    dataset = scan(root)
    assert dataset.layout == "train+val"
    assert relative_paths(dataset.train, root) == [
        *image_names("train/a", 3),
        *image_names("train/b", 2),
    ]
    assert relative_paths(dataset.val, root) == [*image_names(f"{name}/a", 1), f"{name}/b/x.jpeg"]
    assert relative_paths(dataset.test, root) == ["test/a/t.png"]
    assert [sample.label for sample in dataset.val] == [0, 1]
    assert dataset.warnings == ()


def test_given_splits_are_in_the_order_of_their_paths(make_images: MakeImages) -> None:
    names = ["b.png", "c/1.png", "a/2.png", "a/z/0.png", "d.png"]
    root = make_images(
        *(f"train/x/{name}" for name in names), *image_names("train/y", 2), *image_names("val/x", 1)
    )
    dataset = scan(root)
    expected = [*sorted(f"train/x/{name}" for name in names), *image_names("train/y", 2)]
    assert relative_paths(dataset.train, root) == expected


def test_train_alone_or_with_test_is_split(make_images: MakeImages) -> None:
    root = make_images(*image_names("train/a", 20), *image_names("train/b", 20))
    assert scan(root).layout == "train"
    make_images(*image_names("test/b", 2))
    dataset = scan(root)
    assert (dataset.layout, dataset.classes) == ("train", ("a", "b"))
    assert len(dataset.train) + len(dataset.val) == 40
    assert len(dataset.val) >= 2
    assert relative_paths(dataset.test, root) == image_names("test/b", 2)


def test_train_among_classes_is_a_class(make_images: MakeImages) -> None:
    root = make_images(*image_names("car", 5), *image_names("plane", 5), *image_names("train", 5))
    assert scan(root).classes == ("car", "plane", "train")


def test_other_folders_next_to_the_splits_are_ignored_with_a_warning(
    make_images: MakeImages,
) -> None:
    root = make_images(
        *image_names("train/a", 3),
        *image_names("train/b", 3),
        *image_names("val/a", 1),
        *image_names("val/b", 1),
    )
    make_images("originals/x.png")
    dataset = scan(root)
    assert dataset.classes == ("a", "b")
    assert dataset.warnings == ("folders next to train, ignored: originals",)


def test_hidden_files_and_folders_are_ignored(make_images: MakeImages) -> None:
    root = make_images(*image_names("a", 5), *image_names("b", 5))
    before = scan(root)
    make_images(
        ".git/x.png", "__MACOSX/a/._1.png", "a/.thumbs/1.png", "a/._1.png", "b/@eaDir/1.png"
    )
    make_images("a/Thumbs.db", "b/.DS_Store", ".hidden.png", of=b"x")
    assert scan(root) == before


def test_any_name_and_any_suffix_case(make_images: MakeImages) -> None:
    odd = [os.fsdecode(b"caf\xe9"), "line\nbreak", "日本 [bold]", "-rf"]
    root = make_images(*(f"{name}/{name}.PNG" for name in odd), *(f"{name}/2.JPG" for name in odd))
    make_images(*(f"{name}/notes.txt" for name in odd), f"{odd[0]}/{odd[1]}.jpg", of=b"text")
    dataset = scan(root)
    assert dataset.classes == tuple(sorted(odd))
    assert len(dataset.digest) == 64
    bad = find_unreadable([s.path for s in (*dataset.train, *dataset.val)])
    left = dataset.without(bad)
    for warning in (*dataset.warnings, *left.warnings):
        warning.encode("utf-8")  # can be printed, whatever the names are
        assert "\n" not in warning
    assert any("\\n" in warning for warning in left.warnings)


def test_links_are_followed_but_not_in_loops(make_images: MakeImages, tmp_path: Path) -> None:
    root = make_images(
        *image_names("a", 5), *image_names("b", 5), "../elsewhere/1.png", "../elsewhere/deep/2.png"
    )
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "here").symlink_to(".")
    (root / "a" / "itself").symlink_to("itself")
    (root / "b" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root / "b")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    dataset = scan(root)
    counts = {name: n["train"] + n["val"] for name, n in dataset.counts().items()}
    assert counts == {"a": 5, "b": 7, "c": 7}
    assert "ignored: 1 broken link or special file" in dataset.warnings
    make_images(
        *image_names("d/train/a", 2), *image_names("d/train/b", 3), *image_names("d/val/b", 4)
    )
    (root / "d" / "train" / "a" / "up").symlink_to(root / "d")
    assert scan(root / "d").counts() == {
        "a": {"train": 2, "val": 0, "test": 0},
        "b": {"train": 3, "val": 4, "test": 0},
    }


def test_a_missing_folder_and_a_file(make_images: MakeImages, tmp_path: Path) -> None:
    root = make_images(*image_names("a", 1))
    missing = scan_error(tmp_path / "flower")
    assert missing.message == f"there is no folder {tmp_path / 'flower'}"
    assert "flowers" in missing.hint
    assert "no folder" in scan_error(tmp_path / "no" / "where").message
    file = scan_error(root / "a" / "000.png")
    assert "is a file" in file.message
    assert str(root / "a" / "000.png") in file.message
    assert "cannot be listed" in scan_error(tmp_path / ("x" * 300)).message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list all")
def test_a_folder_without_permission(make_images: MakeImages) -> None:
    root = make_images(*image_names("a", 1), *image_names("b", 1))
    (root / "b").chmod(0)
    assert str(root / "b") in scan_error(root).message


def test_no_images_at_all(make_images: MakeImages, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert scan_error(tmp_path / "empty").message == f"there are no images in {tmp_path / 'empty'}"
    root = make_images("a/1.heic", "a/2.HEIC", "b/3.txt", of=b"x")
    message = scan_error(root).message
    assert str(root) in message
    assert "2 .heic files (Pillow cannot read them here: convert them to JPEG)" in message
    assert "1 .txt file" in message


def test_images_directly_in_the_folder(make_images: MakeImages) -> None:
    root = make_images("1.png", "2.png")
    assert scan_error(root).message == f"images lie directly in {root}, without class folders"


def test_images_directly_in_train(make_images: MakeImages) -> None:
    root = make_images("train/1.png", *image_names("val/a", 2))
    where = root / "train"
    assert scan_error(root).message == f"images lie directly in {where}, without class folders"


def test_images_directly_in_train_and_none_in_val(make_images: MakeImages) -> None:
    root = make_images("train/1.png")
    make_images("val/a/x.txt", of=b"x")
    (root / "val" / "b").mkdir()
    assert scan_error(root).message == (
        f"images lie directly in {root / 'train'}, without class folders; "
        f"there are no images in {root / 'val'} (1 .txt file)"
    )


def test_fewer_than_two_classes(make_images: MakeImages) -> None:
    root = make_images(*image_names("roses", 4))
    (root / "tulips").mkdir()
    message = scan_error(root).message
    assert message == f"{root} has fewer than two classes with images: roses"


def test_one_folder_too_high(make_images: MakeImages) -> None:
    root = make_images(*image_names("data/set/a", 2), *image_names("data/set/b", 2))
    assert scan_error(root).hint == f"did you mean {root / 'data' / 'set'}?"
    assert scan_error(root / "data").hint == f"did you mean {root / 'data' / 'set'}?"


def test_val_with_a_class_that_train_lacks(make_images: MakeImages) -> None:
    root = make_images(
        *image_names("train/roses", 2),
        *image_names("train/tulips", 2),
        *image_names("val/rosses", 2),
    )
    found = scan_error(root)
    assert found.message == f"{root / 'val'} has classes that train lacks: rosses"
    assert "roses" in found.hint
    (root / "train" / "rosses").mkdir()  # an empty class folder is none
    assert "train lacks: rosses" in scan_error(root).message
    make_images(*image_names("test/zinnias", 1))
    both = scan_error(root).message
    assert "rosses" in both  # several problems are listed together
    assert "zinnias" in both


def test_val_or_test_without_train(make_images: MakeImages) -> None:
    root = make_images(*image_names("val/a", 2), *image_names("val/b", 2))
    assert scan_error(root).message == f"{root / 'val'} has no train folder next to it"
    root = make_images(*image_names("a", 2), *image_names("b", 2))
    assert "no train folder next to it" in scan_error(root).message


def test_two_folders_for_val(make_images: MakeImages) -> None:
    root = make_images(
        *image_names("train/a", 2),
        *image_names("train/b", 2),
        *image_names("val/a", 2),
        *image_names("valid/a", 2),
    )
    assert "both for val" in scan_error(root).message


def test_an_empty_val(make_images: MakeImages) -> None:
    root = make_images(*image_names("train/a", 2), *image_names("train/b", 2))
    (root / "val" / "a").mkdir(parents=True)
    assert scan_error(root).message == f"there are no images in {root / 'val'}"
