"""Images whose class is known by their folder, to judge a model on."""

from pathlib import Path

from tlcli.data.folders import find_class_folders, list_contents
from tlcli.data.layout import SPLIT_FOLDERS
from tlcli.errors import UserError
from tlcli.text import printable

LabelledImage = tuple[Path, str]
"""An image and the name of its class."""


def find_labelled_images(root: Path) -> tuple[Path, list[LabelledImage]]:
    """The images below the class folders of `root`, or of its `test` or else `val` folder.

    Those two count as parts only beside a `train`; one class alone is enough.

    Returns:
        The folder that holds the class folders, and the images.

    Raises:
        UserError: there is no such folder, or no image in class folders.
    """
    folders = {
        SPLIT_FOLDERS[f.name.lower()]: f
        for f in list_contents(root).folders
        if f.name.lower() in SPLIT_FOLDERS
    }
    folder = root
    if "train" in folders:
        folder = folders.get("test") or folders.get("val") or root
    part = find_class_folders(folder, root)
    images = [(path, name) for name in part.classes for path in part.images[name]]
    if not images:
        raise UserError(
            f"there are no images in class folders below {printable(folder)}",
            f"put them into {printable(folder)}/<class>/, named as the model names its classes",
        )
    return folder, images
