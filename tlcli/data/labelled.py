"""Images labeled by their class folders, to evaluate a model on."""

from pathlib import Path

from tlcli.data.folders import find_class_folders, list_contents
from tlcli.data.layout import SPLIT_FOLDERS
from tlcli.errors import UserError
from tlcli.text import printable

LabeledImage = tuple[Path, str]
"""An image and the name of its class."""


def find_labeled_images(root: Path) -> tuple[Path, list[LabeledImage]]:
    """Find the images in the class folders of `root`, or of its `test` or else `val` folder.

    These two are used only if there is a `train` folder next to them. One class is enough.

    Returns:
        The folder that contains the class folders, and the images.

    Raises:
        UserError: there is no such folder, or no image in class folders.
    """
    splits = {
        SPLIT_FOLDERS[folder.name.lower()]: folder
        for folder in list_contents(root).folders
        if folder.name.lower() in SPLIT_FOLDERS
    }
    folder = root
    if "train" in splits:
        folder = splits.get("test") or splits.get("val") or root
    found = find_class_folders(folder, root)
    images = [(path, name) for name in found.classes for path in found.images[name]]
    if not images:
        raise UserError(
            f"there are no images in class folders below {printable(folder)}",
            f"put them into {printable(folder)}/<class>/, named as the model names its classes",
        )
    return folder, images
