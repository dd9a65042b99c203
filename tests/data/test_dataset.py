"""Scanning real folders: layouts, labels, digests, and every error and warning."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tlcli.data.dataset import Dataset, Sample, scan
from tlcli.data.loader import find_unreadable
from tlcli.errors import UsageError, UserError
from tlcli.reporter import Reporter

FLOWERS = Path(__file__).parents[3] / "shared" / "data" / "flowers"
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
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


def many(folder: str, count: int) -> list[str]:
    return [f"{folder}/{index:03}.png" for index in range(count)]


def paths(samples: tuple[Sample, ...], root: Path) -> list[str]:
    return [str(sample.path.relative_to(root)) for sample in samples]


def error(root: Path, **options: float) -> UserError:
    with pytest.raises(UserError) as caught:
        scan(root, **options)
    assert caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


# --- layouts


def test_class_folders_with_nesting_and_sorted_names(make: Make) -> None:
    root = make(*many("tulips", 20), *many("roses/old/red", 15), *many("roses", 5))
    dataset = scan(root)
    assert dataset.classes == ("roses", "tulips")
    assert dataset.layout == "classes"
    assert dataset.warnings == ()
    assert dataset.test == ()
    for part in (dataset.train, dataset.val):
        assert paths(part, root) == sorted(paths(part, root))
    found = sorted(paths((*dataset.train, *dataset.val), root))
    assert found == sorted([*many("tulips", 20), *many("roses/old/red", 15), *many("roses", 5)])
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
def test_train_and_val_as_given(make: Make, name: str) -> None:
    root = make(*many("train/a", 3), *many("train/b", 2), *many(f"{name}/a", 1), f"{name}/b/x.jpeg")
    make("test/a/t.png")
    dataset = scan(root)
    assert dataset.layout == "train+val"
    assert paths(dataset.train, root) == [*many("train/a", 3), *many("train/b", 2)]
    assert paths(dataset.val, root) == [*many(f"{name}/a", 1), f"{name}/b/x.jpeg"]
    assert paths(dataset.test, root) == ["test/a/t.png"]
    assert [sample.label for sample in dataset.val] == [0, 1]
    assert dataset.warnings == ()


def test_given_splits_are_in_the_order_of_their_paths(make: Make) -> None:
    names = ["b.png", "c/1.png", "a/2.png", "a/z/0.png", "d.png"]
    root = make(*(f"train/x/{name}" for name in names), *many("train/y", 2), *many("val/x", 1))
    dataset = scan(root)
    expected = [*sorted(f"train/x/{name}" for name in names), *many("train/y", 2)]
    assert paths(dataset.train, root) == expected


def test_train_alone_or_with_test_is_split(make: Make) -> None:
    root = make(*many("train/a", 20), *many("train/b", 20))
    assert scan(root).layout == "train"
    make(*many("test/b", 2))
    dataset = scan(root)
    assert (dataset.layout, dataset.classes) == ("train", ("a", "b"))
    assert len(dataset.train) + len(dataset.val) == 40
    assert len(dataset.val) >= 2
    assert paths(dataset.test, root) == many("test/b", 2)


def test_train_among_classes_is_a_class(make: Make) -> None:
    root = make(*many("car", 5), *many("plane", 5), *many("train", 5))
    assert scan(root).classes == ("car", "plane", "train")


def test_other_folders_next_to_the_splits_are_ignored_with_a_warning(make: Make) -> None:
    root = make(*many("train/a", 3), *many("train/b", 3), *many("val/a", 1), *many("val/b", 1))
    make("originals/x.png")
    dataset = scan(root)
    assert dataset.classes == ("a", "b")
    assert dataset.warnings == ("folders next to train, ignored: originals",)


def test_hidden_files_and_folders_are_ignored(make: Make) -> None:
    root = make(*many("a", 5), *many("b", 5))
    before = scan(root)
    make(".git/x.png", "__MACOSX/a/._1.png", "a/.thumbs/1.png", "a/._1.png", "b/@eaDir/1.png")
    make("a/Thumbs.db", "b/.DS_Store", ".hidden.png", of=b"x")
    assert scan(root) == before


def test_any_name_and_any_suffix_case(make: Make) -> None:
    odd = [os.fsdecode(b"caf\xe9"), "line\nbreak", "日本 [bold]", "-rf"]
    root = make(*(f"{name}/{name}.PNG" for name in odd), *(f"{name}/2.JPG" for name in odd))
    make(*(f"{name}/notes.txt" for name in odd), f"{odd[0]}/{odd[1]}.jpg", of=b"text")
    dataset = scan(root)
    assert dataset.classes == tuple(sorted(odd))
    assert len(dataset.digest) == 64
    bad = find_unreadable([s.path for s in (*dataset.train, *dataset.val)])
    left = dataset.without(bad)
    for warning in (*dataset.warnings, *left.warnings):
        warning.encode("utf-8")  # can be printed, whatever the names are
        assert "\n" not in warning
    assert any("\\n" in warning for warning in left.warnings)


# --- links


def test_links_are_followed_but_not_in_loops(make: Make, tmp_path: Path) -> None:
    root = make(*many("a", 5), *many("b", 5), "../elsewhere/1.png", "../elsewhere/deep/2.png")
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
    make(*many("d/train/a", 2), *many("d/train/b", 3), *many("d/val/b", 4))
    (root / "d" / "train" / "a" / "up").symlink_to(root / "d")
    assert scan(root / "d").counts() == {
        "a": {"train": 2, "val": 0, "test": 0},
        "b": {"train": 3, "val": 4, "test": 0},
    }


# --- errors


def test_a_missing_folder_and_a_file(make: Make, tmp_path: Path) -> None:
    root = make(*many("a", 1))
    missing = error(tmp_path / "flower")
    assert missing.message == f"there is no folder {tmp_path / 'flower'}"
    assert "flowers" in missing.hint
    assert "no folder" in error(tmp_path / "no" / "where").message
    file = error(root / "a" / "000.png")
    assert "is a file" in file.message
    assert str(root / "a" / "000.png") in file.message
    assert "cannot be listed" in error(tmp_path / ("x" * 300)).message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list all")
def test_a_folder_without_permission(make: Make) -> None:
    root = make(*many("a", 1), *many("b", 1))
    (root / "b").chmod(0)
    assert str(root / "b") in error(root).message


def test_no_images_at_all(make: Make, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert error(tmp_path / "empty").message == f"there are no images in {tmp_path / 'empty'}"
    root = make("a/1.heic", "a/2.HEIC", "b/3.txt", of=b"x")
    message = error(root).message
    assert str(root) in message
    assert "2 .heic files (Pillow cannot read them here: convert them to JPEG)" in message
    assert "1 .txt file" in message


def test_images_directly_in_the_folder(make: Make) -> None:
    root = make("1.png", "2.png")
    assert error(root).message == f"images lie directly in {root}, without class folders"


def test_images_directly_in_train(make: Make) -> None:
    root = make("train/1.png", *many("val/a", 2))
    where = root / "train"
    assert error(root).message == f"images lie directly in {where}, without class folders"


def test_images_directly_in_train_and_none_in_val(make: Make) -> None:
    root = make("train/1.png")
    make("val/a/x.txt", of=b"x")
    (root / "val" / "b").mkdir()
    assert error(root).message == (
        f"images lie directly in {root / 'train'}, without class folders; "
        f"there are no images in {root / 'val'} (1 .txt file)"
    )


def test_fewer_than_two_classes(make: Make) -> None:
    root = make(*many("roses", 4))
    (root / "tulips").mkdir()
    message = error(root).message
    assert message == f"{root} has fewer than two classes with images: roses"


def test_one_folder_too_high(make: Make) -> None:
    root = make(*many("data/set/a", 2), *many("data/set/b", 2))
    assert error(root).hint == f"did you mean {root / 'data' / 'set'}?"
    assert error(root / "data").hint == f"did you mean {root / 'data' / 'set'}?"


def test_val_with_a_class_that_train_lacks(make: Make) -> None:
    root = make(*many("train/roses", 2), *many("train/tulips", 2), *many("val/rosses", 2))
    found = error(root)
    assert found.message == f"{root / 'val'} has classes that train lacks: rosses"
    assert "roses" in found.hint
    (root / "train" / "rosses").mkdir()  # an empty class folder is none
    assert "train lacks: rosses" in error(root).message
    make(*many("test/zinnias", 1))
    both = error(root).message
    assert "rosses" in both  # several problems are listed together
    assert "zinnias" in both


def test_val_or_test_without_train(make: Make) -> None:
    root = make(*many("val/a", 2), *many("val/b", 2))
    assert error(root).message == f"{root / 'val'} has no train folder next to it"
    root = make(*many("a", 2), *many("b", 2))
    assert "no train folder next to it" in error(root).message


def test_two_folders_for_val(make: Make) -> None:
    root = make(*many("train/a", 2), *many("train/b", 2), *many("val/a", 2), *many("valid/a", 2))
    assert "both for val" in error(root).message


def test_an_empty_val(make: Make) -> None:
    root = make(*many("train/a", 2), *many("train/b", 2))
    (root / "val" / "a").mkdir(parents=True)
    assert error(root).message == f"there are no images in {root / 'val'}"


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_an_impossible_fraction(make: Make, fraction: float) -> None:
    assert isinstance(error(make("a/1.png"), val_fraction=fraction), UsageError)


# --- warnings


def test_warnings_about_ignored_files(make: Make) -> None:
    root = make(*many("a", 9), *many("b", 9), "stray.png")
    for name in ("zero", "none"):
        (root / name).mkdir()
    make("a/x.heic", "b/y.HEIC", "a/z.txt", "b/README", "notes.md", of=b"x")
    dataset = scan(root)
    assert dataset.classes == ("a", "b")
    assert dataset.warnings == (
        f"empty class folders in {root}, left out: none, zero",
        f"images next to the class folders of {root}, ignored: stray.png",
        "ignored: 2 .heic files (Pillow cannot read them here: convert them to JPEG), "
        "1 .txt file, 1 suffixless file",
    )


def test_warning_of_a_class_with_one_image(make: Make) -> None:
    dataset = scan(make(*many("a", 9), *many("b", 9), "lone/1.png"))
    assert dataset.counts()["lone"] == {"train": 1, "val": 0, "test": 0}
    assert dataset.warnings == (
        "classes with a single image, used for training but not validation: lone",
    )


def test_warning_of_a_train_class_without_val(make: Make) -> None:
    root = make(*many("train/a", 3), *many("train/b", 3), *many("val/a", 3))
    assert scan(root).warnings == ("classes without validation images: b",)


def test_warning_of_one_image_in_two_classes(make: Make) -> None:
    root = make(*many("a", 9), *many("b", 9))
    (root / "b" / "same.png").write_bytes((root / "a" / "003.png").read_bytes())
    dataset = scan(root)
    assert len(dataset.warnings) == 1
    assert dataset.warnings[0].startswith("identical images in two classes (1): ")
    assert {"a/003.png", "b/same.png"} == set(dataset.warnings[0].split(": ")[1].split(" = "))


def test_warning_of_leaks(make: Make) -> None:
    root = make(*many("train/a", 3), *many("train/b", 3), *many("val/a", 2), *many("val/b", 2))
    for part in ("val", "test"):
        make(f"{part}/b/copy.png", of=(root / "train" / "b" / "001.png").read_bytes())
    warnings = scan(root).warnings
    assert len(warnings) == 2
    for part, warning in zip(("val", "test"), warnings, strict=True):
        assert f"identical images in train and {part} (1)" in warning
        assert f"train/b/001.png = {part}/b/copy.png" in warning


def test_an_unlabeled_test_folder_is_ignored_with_a_warning(make: Make) -> None:
    root = make(*many("train/a", 9), *many("train/b", 9), "test/1.png", "test/2.png")
    dataset = scan(root)
    assert dataset.test == ()
    assert dataset.warnings == (f"{root / 'test'} has no class folders, so it is ignored",)


# --- split and digest


def test_identical_files_fall_on_one_side(make: Make) -> None:
    root = make(*many("a", 30), *many("b", 30))
    for index in range(30):
        copy = (root / "a" / f"{index:03}.png").read_bytes()
        make(f"a/copy-{index}.png", f"b/copy-{index}.png", of=copy)
    dataset = scan(root)
    train, val = ({sample.digest for sample in part} for part in (dataset.train, dataset.val))
    assert train
    assert val
    assert not train & val


def test_names_do_not_matter_and_new_images_move_no_old_one(make: Make) -> None:
    root = make(*many("a", 30), *many("b", 30))
    before = {sample.digest: part for part, sample in by_split(scan(root))}
    for path in list((root / "a").iterdir()):
        path.rename(path.with_name(f"renamed-{path.name}"))
    make(*many("a/new", 20), *many("b/new", 20), *many("c", 5))
    after = {sample.digest: part for part, sample in by_split(scan(root))}
    assert before.items() <= after.items()
    assert {sample.digest: part for part, sample in by_split(scan(root, seed=1))} != after


def by_split(dataset: Dataset) -> list[tuple[str, Sample]]:
    parts = (("train", dataset.train), ("val", dataset.val), ("test", dataset.test))
    return [(name, sample) for name, samples in parts for sample in samples]


def test_the_digest_depends_on_content_class_and_split_only(make: Make, tmp_path: Path) -> None:
    root = make(*many("train/a", 3), *many("train/b", 3), *many("val/a", 2), *many("val/b", 2))
    first = scan(root).digest
    moved = root.rename(tmp_path / "moved")
    (moved / "train" / "a" / "000.png").rename(moved / "train" / "a" / "zzz.jpg")
    assert scan(moved).digest == first
    (moved / "train" / "a" / "zzz.jpg").rename(moved / "val" / "a" / "zzz.jpg")
    of_part = scan(moved).digest
    (moved / "val" / "a" / "zzz.jpg").rename(moved / "val" / "b" / "zzz.jpg")
    of_class = scan(moved).digest
    with (moved / "val" / "b" / "zzz.jpg").open("ab") as file:
        file.write(b"x")
    assert len({first, of_part, of_class, scan(moved).digest}) == 4


# --- unreadable images


def test_without_leaves_out_splits_again_and_warns(make: Make) -> None:
    root = make(*many("a", 20), *many("b", 20))
    make(*(f"b/bad-{index}.jpg" for index in range(7)), of=b"text")
    dataset = scan(root)
    bad = find_unreadable([sample.path for sample in (*dataset.train, *dataset.val)])
    left = dataset.without(bad)
    assert len(bad) == 7
    assert left.counts()["b"]["train"] + left.counts()["b"]["val"] == 20
    assert left.warnings == (
        "7 unreadable images left out: "
        + ", ".join(f"b/bad-{i}.jpg (not an image but text)" for i in range(5))
        + " and 2 more",
    )
    assert left.train == tuple(s for s in dataset.train if s.path not in bad)
    assert dataset.without({}) is dataset


def test_without_may_move_another_image_to_val(make: Make) -> None:
    root = make(*many("a", 3), *many("b", 30))
    dataset = scan(root, val_fraction=0.01)
    [held] = [sample for sample in dataset.val if sample.label == 0]
    left = dataset.without({held.path: "broken"})
    assert left.counts()["a"] == {"train": 1, "val": 1, "test": 0}
    last = left.without({sample.path: "broken" for sample in left.val if sample.label == 0})
    assert last.counts()["a"] == {"train": 1, "val": 0, "test": 0}
    assert "classes with a single image, used for training but not validation: a" in last.warnings


def test_without_may_turn_val_into_train(make: Make) -> None:
    dataset = scan(make(*many("a", 4), *many("b", 9)), val_fraction=0.5)
    bad = {sample.path: "broken" for sample in dataset.train if sample.label == 0}
    left = dataset.without(bad)
    assert left.counts()["a"]["train"] >= 1
    assert sum(left.counts()["a"].values()) == 4 - len(bad)


def test_without_drops_outdated_warnings(make: Make) -> None:
    root = make(*many("a", 9), *many("b", 9))
    copy = make("b/copy.png", of=(root / "a" / "000.png").read_bytes()) / "b" / "copy.png"
    make("a/x.txt", of=b"x")
    dataset = scan(root)
    assert len(dataset.warnings) == 2
    assert dataset.without({copy: "bad"}).warnings == (
        "ignored: 1 .txt file",
        "1 unreadable image left out: b/copy.png (bad)",
    )


def test_without_a_class_or_val_left(make: Make) -> None:
    root = make(*many("a", 3), *many("b", 2))
    dataset = scan(root)
    b = {sample.path: "damaged" for _, sample in by_split(dataset) if sample.label == 1}
    with pytest.raises(
        UserError, match=r"no readable images are left for b in .*b/000.png \(damaged"
    ):
        dataset.without(b)
    root = make(*many("x/train/a", 2), *many("x/train/b", 2), *many("x/val/a", 1)) / "x"
    dataset = scan(root)
    with pytest.raises(UserError, match="left in val"):
        dataset.without({sample.path: "damaged" for sample in dataset.val})
    with pytest.raises(UserError, match="left for b"):
        dataset.without({sample.path: "damaged" for sample in dataset.train if sample.label == 1})


def test_a_file_that_cannot_be_opened_is_left_out(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(*many("a", 9), *many("b", 9))
    opened = Path.open

    def denied(path: Path, *args: str) -> object:
        if path.name == "004.png" and path.parent.name == "b":
            raise PermissionError(13, "Permission denied")
        return opened(path, *args)

    monkeypatch.setattr(Path, "open", denied)
    dataset = scan(root)
    assert len(dataset.train) + len(dataset.val) == 17
    assert dataset.warnings == ("1 unreadable image left out: b/004.png (Permission denied)",)


# --- progress, imports, real photographs


def test_progress_is_reported_for_every_file(make: Make) -> None:
    calls = []
    reporter = Reporter()
    reporter.progress = lambda task, done, total: calls.append((task, done, total))  # type: ignore
    scan(make(*many("a", 4), *many("b", 3)), reporter=reporter)
    assert calls == [("scanning images", done, 7) for done in range(1, 8)]


def test_scanning_needs_no_torch() -> None:
    modules = "tlcli.data.dataset, tlcli.data.drawings.sample"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.skipif(not FLOWERS.is_dir(), reason="the shared flower photographs are not here")
def test_real_photographs() -> None:
    start = time.perf_counter()
    dataset = scan(FLOWERS)
    assert time.perf_counter() - start < 10
    assert dataset.layout == "train+val"
    assert len(dataset.classes) == 5
    assert set(map(tuple, (n.items() for n in dataset.counts().values()))) == {
        (("train", 200), ("val", 80), ("test", 0))
    }
    assert find_unreadable([sample.path for sample in dataset.val[::20]]) == {}
    pooled = scan(FLOWERS / "train", val_fraction=0.2)
    assert len(pooled.val) == pytest.approx(200, abs=40)
