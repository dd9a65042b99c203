"""Scanned folders: splits, digests, warnings, and files that are left out."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data.image_folders import MakeImages, image_names, scan_error
from tests.paths import FLOWERS
from tlcli.data.dataset import Dataset, Sample, scan
from tlcli.data.loader import find_unreadable
from tlcli.errors import UsageError, UserError
from tlcli.reporter import Reporter


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_an_impossible_fraction(make_images: MakeImages, fraction: float) -> None:
    assert isinstance(scan_error(make_images("a/1.png"), val_fraction=fraction), UsageError)


def test_warnings_about_ignored_files(make_images: MakeImages) -> None:
    root = make_images(*image_names("a", 9), *image_names("b", 9), "stray.png")
    for name in ("zero", "none"):
        (root / name).mkdir()
    make_images("a/x.heic", "b/y.HEIC", "a/z.txt", "b/README", "notes.md", of=b"x")
    dataset = scan(root)
    assert dataset.classes == ("a", "b")
    assert dataset.warnings == (
        f"empty class folders in {root}, left out: none, zero",
        f"images next to the class folders of {root}, ignored: stray.png",
        "ignored: 2 .heic files (Pillow cannot read them here: convert them to JPEG), "
        "1 .txt file, 1 suffixless file",
    )


def test_warning_of_a_class_with_one_image(make_images: MakeImages) -> None:
    dataset = scan(make_images(*image_names("a", 9), *image_names("b", 9), "lone/1.png"))
    assert dataset.counts()["lone"] == {"train": 1, "val": 0, "test": 0}
    assert dataset.warnings == (
        "classes with a single image, used for training but not validation: lone",
    )


def test_warning_of_a_train_class_without_val(make_images: MakeImages) -> None:
    root = make_images(
        *image_names("train/a", 3), *image_names("train/b", 3), *image_names("val/a", 3)
    )
    assert scan(root).warnings == ("classes without validation images: b",)


def test_warning_of_one_image_in_two_classes(make_images: MakeImages) -> None:
    root = make_images(*image_names("a", 9), *image_names("b", 9))
    (root / "b" / "same.png").write_bytes((root / "a" / "003.png").read_bytes())
    dataset = scan(root)
    assert len(dataset.warnings) == 1
    assert dataset.warnings[0].startswith("identical images in two classes (1): ")
    assert {"a/003.png", "b/same.png"} == set(dataset.warnings[0].split(": ")[1].split(" = "))


def test_warning_of_leaks(make_images: MakeImages) -> None:
    root = make_images(
        *image_names("train/a", 3),
        *image_names("train/b", 3),
        *image_names("val/a", 2),
        *image_names("val/b", 2),
    )
    for part in ("val", "test"):
        make_images(f"{part}/b/copy.png", of=(root / "train" / "b" / "001.png").read_bytes())
    warnings = scan(root).warnings
    assert len(warnings) == 2
    for part, warning in zip(("val", "test"), warnings, strict=True):
        assert f"identical images in train and {part} (1)" in warning
        assert f"train/b/001.png = {part}/b/copy.png" in warning


def test_an_unlabeled_test_folder_is_ignored_with_a_warning(make_images: MakeImages) -> None:
    root = make_images(
        *image_names("train/a", 9), *image_names("train/b", 9), "test/1.png", "test/2.png"
    )
    dataset = scan(root)
    assert dataset.test == ()
    assert dataset.warnings == (f"{root / 'test'} has no class folders, so it is ignored",)


def test_identical_files_fall_on_one_side(make_images: MakeImages) -> None:
    root = make_images(*image_names("a", 30), *image_names("b", 30))
    for index in range(30):
        copy = (root / "a" / f"{index:03}.png").read_bytes()
        make_images(f"a/copy-{index}.png", f"b/copy-{index}.png", of=copy)
    dataset = scan(root)
    train, val = ({sample.digest for sample in part} for part in (dataset.train, dataset.val))
    assert train
    assert val
    assert not train & val


def test_names_do_not_matter_and_new_images_move_no_old_one(make_images: MakeImages) -> None:
    root = make_images(*image_names("a", 30), *image_names("b", 30))
    before = {sample.digest: part for part, sample in by_split(scan(root))}
    for path in list((root / "a").iterdir()):
        path.rename(path.with_name(f"renamed-{path.name}"))
    make_images(*image_names("a/new", 20), *image_names("b/new", 20), *image_names("c", 5))
    after = {sample.digest: part for part, sample in by_split(scan(root))}
    assert before.items() <= after.items()
    assert {sample.digest: part for part, sample in by_split(scan(root, seed=1))} != after


def by_split(dataset: Dataset) -> list[tuple[str, Sample]]:
    parts = (("train", dataset.train), ("val", dataset.val), ("test", dataset.test))
    return [(name, sample) for name, samples in parts for sample in samples]


def test_the_digest_depends_on_content_class_and_split_only(
    make_images: MakeImages, tmp_path: Path
) -> None:
    root = make_images(
        *image_names("train/a", 3),
        *image_names("train/b", 3),
        *image_names("val/a", 2),
        *image_names("val/b", 2),
    )
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


def test_without_leaves_out_splits_again_and_warns(make_images: MakeImages) -> None:
    root = make_images(*image_names("a", 20), *image_names("b", 20))
    make_images(*(f"b/bad-{index}.jpg" for index in range(7)), of=b"text")
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


def test_without_may_move_another_image_to_val(make_images: MakeImages) -> None:
    root = make_images(*image_names("a", 3), *image_names("b", 30))
    dataset = scan(root, val_fraction=0.01)
    [held] = [sample for sample in dataset.val if sample.label == 0]
    left = dataset.without({held.path: "broken"})
    assert left.counts()["a"] == {"train": 1, "val": 1, "test": 0}
    last = left.without({sample.path: "broken" for sample in left.val if sample.label == 0})
    assert last.counts()["a"] == {"train": 1, "val": 0, "test": 0}
    assert "classes with a single image, used for training but not validation: a" in last.warnings


def test_without_may_turn_val_into_train(make_images: MakeImages) -> None:
    dataset = scan(make_images(*image_names("a", 4), *image_names("b", 9)), val_fraction=0.5)
    bad = {sample.path: "broken" for sample in dataset.train if sample.label == 0}
    left = dataset.without(bad)
    assert left.counts()["a"]["train"] >= 1
    assert sum(left.counts()["a"].values()) == 4 - len(bad)


def test_without_drops_outdated_warnings(make_images: MakeImages) -> None:
    root = make_images(*image_names("a", 9), *image_names("b", 9))
    copy = make_images("b/copy.png", of=(root / "a" / "000.png").read_bytes()) / "b" / "copy.png"
    make_images("a/x.txt", of=b"x")
    dataset = scan(root)
    assert len(dataset.warnings) == 2
    assert dataset.without({copy: "bad"}).warnings == (
        "ignored: 1 .txt file",
        "1 unreadable image left out: b/copy.png (bad)",
    )


def test_without_a_class_or_val_left(make_images: MakeImages) -> None:
    root = make_images(*image_names("a", 3), *image_names("b", 2))
    dataset = scan(root)
    b = {sample.path: "damaged" for _, sample in by_split(dataset) if sample.label == 1}
    with pytest.raises(
        UserError, match=r"no readable images are left for b in .*b/000.png \(damaged"
    ):
        dataset.without(b)
    root = (
        make_images(
            *image_names("x/train/a", 2), *image_names("x/train/b", 2), *image_names("x/val/a", 1)
        )
        / "x"
    )
    dataset = scan(root)
    with pytest.raises(UserError, match="left in val"):
        dataset.without({sample.path: "damaged" for sample in dataset.val})
    with pytest.raises(UserError, match="left for b"):
        dataset.without({sample.path: "damaged" for sample in dataset.train if sample.label == 1})


def test_a_file_that_cannot_be_opened_is_left_out(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_images(*image_names("a", 9), *image_names("b", 9))
    opened = Path.open

    def denied(path: Path, *args: str) -> object:
        if path.name == "004.png" and path.parent.name == "b":
            raise PermissionError(13, "Permission denied")
        return opened(path, *args)

    monkeypatch.setattr(Path, "open", denied)
    dataset = scan(root)
    assert len(dataset.train) + len(dataset.val) == 17
    assert dataset.warnings == ("1 unreadable image left out: b/004.png (Permission denied)",)


def test_progress_is_reported_for_every_file(make_images: MakeImages) -> None:
    calls = []
    reporter = Reporter()
    reporter.progress = lambda task, done, total: calls.append((task, done, total))  # type: ignore
    scan(make_images(*image_names("a", 4), *image_names("b", 3)), reporter=reporter)
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
