"""The images in a folder of class folders, found but not judged yet."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tlcli.data.decode import IMAGE_SUFFIXES
from tlcli.errors import UserError, did_you_mean
from tlcli.text import printable

SYSTEM_FILES = {"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"}  # systems strew these about
NOT_A_FILE = "broken link or special file"

FolderId = tuple[int, int]  # device and inode: the same for a folder and a link to it


class FolderContents(NamedTuple):
    """What a folder holds, links followed, each sorted by name; hidden things are left out."""

    folders: list[Path]
    files: list[Path]
    neither: list[Path]


@dataclass
class ClassFolders:
    """The class folders of one part: all of a folder, or its train, val or test.

    Attributes:
        images: of each class folder, by name; the empty ones too.
        strays: images that lie beside the class folders, not in one.
        ignored: how many files of each kind (a suffix) are no images.
    """

    folder: Path
    images: dict[str, list[Path]] = field(default_factory=dict)
    strays: list[Path] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    @property
    def classes(self) -> list[str]:
        """Names of the class folders that hold images, sorted."""
        return sorted(name for name, images in self.images.items() if images)


def list_contents(folder: Path) -> FolderContents:
    """What lies in `folder`.

    Raises:
        UserError: it is missing, is no folder, or cannot be listed.
    """
    found = FolderContents([], [], [])
    try:
        with os.scandir(folder) as scanned:
            for entry in sorted(scanned, key=lambda entry: entry.name):
                if not entry.name.startswith(".") and entry.name not in SYSTEM_FILES:
                    _list_for(entry, found).append(folder / entry.name)
    except FileNotFoundError:
        raise UserError(f"there is no folder {printable(folder)}", _close_to(folder)) from None
    except NotADirectoryError:
        raise UserError(
            f"{printable(folder)} is a file, not a folder",
            "give the folder that holds a folder of images for each class; unpack archives first",
        ) from None
    except OSError as error:
        raise UserError(
            f"{printable(folder)} cannot be listed: {error.strerror}", "check its permissions"
        ) from error
    return found


def find_class_folders(folder: Path, root: Path) -> ClassFolders:
    """The class folders of `folder`, which is `root` or lies in it."""
    found = list_contents(folder)
    part = ClassFolders(folder, strays=[file for file in found.files if _is_image(file)])
    above = {_identity(root), _identity(folder)}
    for class_folder in found.folders:
        part.images[class_folder.name] = find_images(class_folder, set(above), part.ignored)
    return part


def find_images(folder: Path, entered: set[FolderId], ignored: Counter[str]) -> list[Path]:
    """All images in `folder` at any depth, sorted; the kinds of other files go into `ignored`.

    A folder in `entered` is not entered again, so that links cannot lead round in circles.
    """
    images: list[Path] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        identity = _identity(here)
        if identity in entered:
            continue
        entered.add(identity)
        found = list_contents(here)
        waiting += found.folders
        images += [file for file in found.files if _is_image(file)]
        others = (file for file in found.files if not _is_image(file))
        ignored.update(file.suffix.lower() or "suffixless" for file in others)
        ignored.update(NOT_A_FILE for _ in found.neither)
    return sorted(images, key=str)


def _list_for(entry: os.DirEntry[str], found: FolderContents) -> list[Path]:
    try:
        if entry.is_dir():
            return found.folders
        return found.files if entry.is_file() else found.neither
    except OSError:  # a link to itself, or to where nobody may look
        return found.neither


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES


def _identity(folder: Path) -> FolderId:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _close_to(folder: Path) -> str:
    """A hint with the folders beside where `folder` was looked for."""
    if folder.parent == folder or not folder.parent.is_dir():
        return "check the path"
    beside = [path.name for path in list_contents(folder.parent).folders]
    return printable(did_you_mean(folder.name, beside)) if beside else "check the path"
