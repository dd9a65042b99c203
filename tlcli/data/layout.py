"""Which layout a folder of images has, what is wrong with it, and what was left out of it."""

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
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
PHOTOGRAPHS = {
    ".heic", ".heif", ".avif", ".jxl", ".tga", ".psd", ".svg", ".pdf", ".eps", ".dng", ".cr2",
    ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
}  # fmt: skip


@dataclass(frozen=True)
class DetectedLayout:
    """A folder whose layout is sound.

    Attributes:
        layout: "classes", "train+val", or "train" (a train folder but no val).
        parts: by "train", "val", "test"; those that are not there are left out.
        remarks: what was ignored or left out, a line each.
    """

    layout: str
    parts: Mapping[str, ClassFolders]
    remarks: tuple[str, ...]


def detect_layout(root: Path) -> DetectedLayout:
    """The images below `root`, by part and class.

    Raises:
        UserError: the folder or its layout cannot be used; every reason found is told.
    """
    parts, beside = _parts(root, list_contents(root).folders)
    remarks = []
    if parts:
        layout = "train+val" if "val" in parts else "train"
        found = {part: find_class_folders(folder, root) for part, folder in parts.items()}
        if beside:
            remarks.append(
                f"ignored beside {printable(parts['train'].name)}: {shorten_list(beside)}"
            )
    else:
        layout = "classes"
        found = {"train": find_class_folders(root, root)}
    if "test" in found and not found["test"].classes:
        # Kaggle's way: pictures to be predicted, without labels
        remarks.append(f"{printable(found.pop('test').folder)} has no class folders: ignored")
    _check_parts(found)
    return DetectedLayout(layout, found, (*remarks, *_remarks(found)))


def _parts(root: Path, folders: Iterable[Path]) -> tuple[dict[str, Path], list[str]]:
    """The part folders of `root` and the names beside them; no parts where all are classes.

    "train" alone among others is a class (car, plane, train), with val or test beside it a part.

    Raises:
        UserError: val or test without train, or two folders for one part.
    """
    parts: dict[str, Path] = {}
    beside: list[str] = []
    for folder in folders:
        part = SPLIT_FOLDERS.get(folder.name.lower())
        if part is None:
            beside.append(folder.name)
        elif part in parts:
            raise UserError(
                f"{printable(parts[part])} and {printable(folder)} are both for {part}",
                "remove one",
            )
        else:
            parts[part] = folder
    if parts.keys() == {"train"} and beside:
        return {}, []
    if parts and "train" not in parts:
        lone = printable(next(iter(parts.values())))
        raise UserError(
            f"{lone} has no train beside it",
            f"move the class folders into {printable(root / 'train')}; "
            f"if {lone} is a class, rename it",
        )
    return parts, beside


def _check_parts(found: Mapping[str, ClassFolders]) -> None:
    """Raises `UserError` with every reason why these parts cannot be trained on."""
    problems: list[str] = []
    hints: list[str] = []
    train = found["train"]
    for name, part in found.items():
        where = printable(part.folder)
        if not part.classes and part.strays:
            problems.append(f"images lie directly in {where}, without class folders")
            hints.append(f"make a folder for each class, as {where}/roses/1.jpg")
        elif not part.classes:
            kinds = f" ({_kinds(part.ignored)})" if part.ignored else ""
            problems.append(f"there are no images in {where}{kinds}")
            hints.append(
                f"put images into {where}/<class>/"
                if name == "train"
                else f"remove {where}, and some of train is taken for {name}"
            )
        elif name == "train" and len(part.classes) < 2:
            problems.append(
                f"{where} has fewer than two classes with images: {shorten_list(part.classes)}"
            )
            inner = _deeper(part.folder)
            hints.append(
                f"did you mean {printable(inner)}?" if inner else f"add another folder to {where}"
            )
        unknown = sorted(set(part.classes) - set(train.classes))
        if name != "train" and unknown and train.classes:
            problems.append(f"{where} has classes that train lacks: {shorten_list(unknown)}")
            close = get_close_matches(unknown[0], train.classes, n=1)
            hints.append(
                f"is {printable(unknown[0])} the same as {printable(close[0])}? rename one"
                if close
                else f"add them to {printable(train.folder)}, or remove them from {where}"
            )
    if problems:
        raise UserError("; ".join(problems), "; ".join(hints))


def _deeper(folder: Path) -> Path | None:
    """The first folder inside that holds several class folders, where only one way leads down."""
    for _level in range(5):
        within = list_contents(folder).folders
        filled = [path for path in within if find_images(path, set(), Counter())]
        if len(filled) != 1:
            return folder if filled else None
        folder = filled[0]
    return None


def _remarks(found: Mapping[str, ClassFolders]) -> list[str]:
    """What the person should know of what was left out, a line each."""
    remarks: list[str] = []
    for part in found.values():
        where = printable(part.folder)
        empty = sorted(set(part.images) - set(part.classes))
        if empty:
            remarks.append(f"empty class folders in {where}, left out: {shorten_list(empty)}")
        if part.strays:
            what = shorten_list(path.name for path in part.strays)
            remarks.append(f"images beside the class folders of {where}, ignored: {what}")
    ignored: Counter[str] = sum((part.ignored for part in found.values()), Counter())
    if ignored:
        remarks.append(f"ignored: {_kinds(ignored)}")
    return remarks


def _kinds(ignored: Counter[str]) -> str:
    """As "12 .heic files (Pillow cannot read them here: convert them to JPEG), 1 .txt file"."""
    told = []
    for kind, count in sorted(ignored.items()):
        noun = kind if kind == NOT_A_FILE else f"{printable(kind)} file"
        remedy = " (Pillow cannot read them here: convert them to JPEG)"
        told.append(f"{count} {noun}{'s'[: count > 1]}{remedy if kind in PHOTOGRAPHS else ''}")
    return ", ".join(told)
