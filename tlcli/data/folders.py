"""Finding and hashing the images in a folder of class folders."""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tlcli.data.decode import IMAGE_SUFFIXES
from tlcli.errors import UserError, did_you_mean
from tlcli.reporter import Reporter
from tlcli.runtime.threads import map_in_order
from tlcli.text import printable

SYSTEM_FILES = {"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"}
"""Files and folders that operating systems add, which are ignored."""
NOT_A_FILE = "broken link or special file"

FolderId = tuple[int, int]
"""Device and inode, which are the same for a folder and a link to it."""


class FolderContents(NamedTuple):
    """What a folder contains besides hidden files, sorted by name, with links followed."""

    folders: list[Path]
    files: list[Path]
    others: list[Path]


@dataclass
class ClassFolders:
    """The class folders of one split, or of a dataset without splits.

    Attributes:
        folder: the folder that contains them.
        images: the images of each class folder, by its name; empty ones are included.
        strays: images directly in `folder`.
        ignored: number of files that are not images, by suffix.
    """

    folder: Path
    images: dict[str, list[Path]] = field(default_factory=dict)
    strays: list[Path] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    @property
    def classes(self) -> list[str]:
        """Names of the class folders that contain images, sorted."""
        return sorted(name for name, images in self.images.items() if images)


def list_contents(folder: Path) -> FolderContents:
    """List what `folder` contains.

    Raises:
        UserError: it does not exist, is not a folder, or cannot be listed.
    """
    contents = FolderContents([], [], [])
    try:
        with os.scandir(folder) as scanned:
            for entry in sorted(scanned, key=lambda entry: entry.name):
                if not entry.name.startswith(".") and entry.name not in SYSTEM_FILES:
                    _list_for(entry, contents).append(folder / entry.name)
    except FileNotFoundError:
        raise UserError(f"there is no folder {printable(folder)}", _similar_name(folder)) from None
    except NotADirectoryError:
        raise UserError(
            f"{printable(folder)} is a file, not a folder",
            "name the folder that contains one folder of images per class; unpack archives first",
        ) from None
    except OSError as error:
        raise UserError(
            f"{printable(folder)} cannot be listed: {error.strerror}", "check its permissions"
        ) from error
    return contents


def find_class_folders(folder: Path, root: Path) -> ClassFolders:
    """Find the class folders in `folder`, which is `root` or lies in it, and their images.

    Raises:
        UserError: a folder cannot be listed.
    """
    contents = list_contents(folder)
    found = ClassFolders(folder, strays=[file for file in contents.files if _is_image(file)])
    above = {_folder_id(root), _folder_id(folder)}
    for class_folder in contents.folders:
        found.images[class_folder.name] = find_images(class_folder, set(above), found.ignored)
    return found


def find_images(folder: Path, visited: set[FolderId], ignored: Counter[str]) -> list[Path]:
    """Find all images in `folder` at any depth, sorted by path.

    Args:
        visited: folders that are not searched, so that links cannot form a loop; all searched
            folders are added.
        ignored: counts the other files by suffix.

    Raises:
        UserError: a folder cannot be listed.
    """
    images: list[Path] = []
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        folder_id = _folder_id(current)
        if folder_id in visited:
            continue
        visited.add(folder_id)
        contents = list_contents(current)
        waiting += contents.folders
        images += [file for file in contents.files if _is_image(file)]
        other_files = (file for file in contents.files if not _is_image(file))
        ignored.update(file.suffix.lower() or "suffixless" for file in other_files)
        ignored.update(NOT_A_FILE for _ in contents.others)
    return sorted(images, key=str)


def hash_files(paths: list[Path], reporter: Reporter) -> tuple[dict[Path, str], dict[Path, str]]:
    """Return the SHA-256 (hex) of each readable file, and why the others are unreadable."""

    def digest(path: Path) -> tuple[str | None, str]:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest(), ""
        except OSError as error:
            return None, error.strerror or str(error)

    digests: dict[Path, str] = {}
    unreadable: dict[Path, str] = {}
    results = map_in_order(digest, paths)
    for done, (path, (found, reason)) in enumerate(zip(paths, results, strict=True), 1):
        if found is None:
            unreadable[path] = reason
        else:
            digests[path] = found
        reporter.progress("scanning images", done, len(paths))
    return digests, unreadable


def _list_for(entry: os.DirEntry[str], contents: FolderContents) -> list[Path]:
    """Return the list in `contents` that `entry` belongs to."""
    try:
        if entry.is_dir():
            return contents.folders
        return contents.files if entry.is_file() else contents.others
    except OSError:  # a link to itself, or to a place without permission
        return contents.others


def _is_image(file: Path) -> bool:
    """Return whether the suffix is that of an image."""
    return file.suffix.lower() in IMAGE_SUFFIXES


def _folder_id(folder: Path) -> FolderId:
    """Return the identity of `folder`, with links followed."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _similar_name(folder: Path) -> str:
    """Return a hint with folders of a similar name, for a folder that does not exist."""
    if folder.parent == folder or not folder.parent.is_dir():
        return "check the path"
    siblings = [path.name for path in list_contents(folder.parent).folders]
    return printable(did_you_mean(folder.name, siblings)) if siblings else "check the path"
