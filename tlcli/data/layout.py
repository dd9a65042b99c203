"""Detecting the layout of a folder of images, and checking that it can be used."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from tlcli.data.folders import (
    NOT_A_FILE,
    ClassFolders,
    find_class_folders,
    find_images,
    list_contents,
)
from tlcli.errors import UserError
from tlcli.text import printable, shorten_list

SPLIT_FOLDERS = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
"""The split that a folder's name stands for."""

UNREADABLE_PHOTOS = {
    ".heic", ".heif", ".avif", ".jxl", ".tga", ".psd", ".svg", ".pdf", ".eps", ".dng", ".cr2",
    ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
}  # fmt: skip
"""Suffixes of images that Pillow may not read; a warning says so if they were ignored."""

MAX_SEARCH_DEPTH = 5
"""Levels below the named folder that a better folder is searched for, to suggest it."""


@dataclass(frozen=True)
class DetectedLayout:
    """The layout of a folder that can be used.

    Attributes:
        layout: "classes", "train+val", or "train" (a train folder without val).
        splits: the class folders by split: "train", and "val" and "test" if they exist.
        warnings: what was ignored or left out, one line each.
    """

    layout: str
    splits: Mapping[str, ClassFolders]
    warnings: tuple[str, ...]


def detect_layout(root: Path) -> DetectedLayout:
    """Detect the layout of `root` and find its images by split and class.

    Raises:
        UserError: the folder or its layout cannot be used; the message lists all reasons.
    """
    folders, others = _split_folders(root, list_contents(root).folders)
    warnings = []
    if folders:
        layout = "train+val" if "val" in folders else "train"
        splits = {name: find_class_folders(folder, root) for name, folder in folders.items()}
        if others:
            beside = printable(folders["train"].name)
            warnings.append(f"folders next to {beside}, ignored: {shorten_list(others)}")
    else:
        layout = "classes"
        splits = {"train": find_class_folders(root, root)}
    if "test" in splits and not splits["test"].classes:
        # Kaggle's convention: images to be predicted, without labels
        unlabeled = printable(splits.pop("test").folder)
        warnings.append(f"{unlabeled} has no class folders, so it is ignored")
    _check_splits(splits)
    return DetectedLayout(layout, splits, (*warnings, *_ignored_warnings(splits)))


def _split_folders(root: Path, folders: Iterable[Path]) -> tuple[dict[str, Path], list[str]]:
    """Return the folders of the splits by name, and the names of the other folders.

    There are no splits if all folders are classes. "train" alone among others is a class, as in
    car, plane, train; together with val or test it is a split.

    Raises:
        UserError: val or test without train, or two folders for one split.
    """
    splits: dict[str, Path] = {}
    others: list[str] = []
    for folder in folders:
        name = SPLIT_FOLDERS.get(folder.name.lower())
        if name is None:
            others.append(folder.name)
        elif name in splits:
            raise UserError(
                f"{printable(splits[name])} and {printable(folder)} are both for {name}",
                "remove one",
            )
        else:
            splits[name] = folder
    if splits.keys() == {"train"} and others:
        return {}, []
    if splits and "train" not in splits:
        lone = printable(next(iter(splits.values())))
        raise UserError(
            f"{lone} has no train folder next to it",
            f"move the class folders into {printable(root / 'train')}; "
            f"if {lone} is a class, rename it",
        )
    return splits, others


def _check_splits(splits: Mapping[str, ClassFolders]) -> None:
    """Raise `UserError` with all reasons why these splits cannot be trained on, if any."""
    problems: list[tuple[str, str]] = []
    for name, split in splits.items():
        problems += _split_problems(name, split)
        if name != "train":
            problems += _unknown_class_problems(split, splits["train"])
    if problems:
        messages, hints = zip(*problems, strict=True)
        raise UserError("; ".join(messages), "; ".join(hints))


def _split_problems(name: str, split: ClassFolders) -> list[tuple[str, str]]:
    """Return what is wrong with the classes of one split, as messages and hints."""
    where = printable(split.folder)
    if not split.classes and split.strays:
        return [
            (
                f"images lie directly in {where}, without class folders",
                f"make one folder per class, such as {where}/roses/1.jpg",
            )
        ]
    if not split.classes:
        kinds = f" ({_count_kinds(split.ignored)})" if split.ignored else ""
        hint = f"put images into {where}/<class>/"
        if name != "train":
            hint = f"remove {where} to use part of train for {name}"
        return [(f"there are no images in {where}{kinds}", hint)]
    if name == "train" and len(split.classes) < 2:
        inner = _inner_folder(split.folder)
        hint = f"did you mean {printable(inner)}?" if inner else f"add another folder to {where}"
        only = shorten_list(split.classes)
        return [(f"{where} has fewer than two classes with images: {only}", hint)]
    return []


def _unknown_class_problems(split: ClassFolders, train: ClassFolders) -> list[tuple[str, str]]:
    """Return the message and hint about classes that the train folder lacks."""
    unknown = sorted(set(split.classes) - set(train.classes))
    if not unknown or not train.classes:
        return []
    where = printable(split.folder)
    close = get_close_matches(unknown[0], train.classes, n=1)
    if close:
        hint = f"is {printable(unknown[0])} the same as {printable(close[0])}? rename one"
    else:
        hint = f"add them to {printable(train.folder)}, or remove them from {where}"
    return [(f"{where} has classes that train lacks: {shorten_list(unknown)}", hint)]


def _inner_folder(folder: Path) -> Path | None:
    """Return the first folder below that contains several class folders.

    The search follows the folders that are alone in containing images.
    """
    for _ in range(MAX_SEARCH_DEPTH):
        inner = list_contents(folder).folders
        with_images = [path for path in inner if find_images(path, set(), Counter())]
        if len(with_images) != 1:
            return folder if with_images else None
        folder = with_images[0]
    return None


def _ignored_warnings(splits: Mapping[str, ClassFolders]) -> list[str]:
    """Return warnings about what was left out, one line each."""
    warnings: list[str] = []
    for split in splits.values():
        where = printable(split.folder)
        empty = sorted(set(split.images) - set(split.classes))
        if empty:
            warnings.append(f"empty class folders in {where}, left out: {shorten_list(empty)}")
        if split.strays:
            strays = shorten_list(path.name for path in split.strays)
            warnings.append(f"images next to the class folders of {where}, ignored: {strays}")
    ignored: Counter[str] = sum((split.ignored for split in splits.values()), Counter())
    if ignored:
        warnings.append(f"ignored: {_count_kinds(ignored)}")
    return warnings


def _count_kinds(ignored: Counter[str]) -> str:
    """Return the counts as a list, such as "12 .heic files (Pillow cannot ...), 1 .txt file"."""
    counts = []
    for kind, count in sorted(ignored.items()):
        noun = kind if kind == NOT_A_FILE else f"{printable(kind)} file"
        hint = " (Pillow cannot read them here: convert them to JPEG)"
        counts.append(
            f"{count} {noun}{'s'[: count > 1]}{hint if kind in UNREADABLE_PHOTOS else ''}"
        )
    return ", ".join(counts)
