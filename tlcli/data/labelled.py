"""Images whose class is known by their folder, to judge a model on."""

from pathlib import Path

from tlcli.data.folders import entries, read_part
from tlcli.data.layout import PARTS
from tlcli.errors import UserError
from tlcli.text import printable

Labelled = tuple[Path, str]
"""An image and the name of its class."""


def labelled(root: Path) -> tuple[Path, list[Labelled]]:
    """The images below the class folders of `root`, or of its `test` or else `val` folder.

    Those two count as parts only beside a `train`; one class alone is enough.

    Returns:
        The folder that holds the class folders, and the images.

    Raises:
        UserError: there is no such folder, or no image in class folders.
    """
    folders = {PARTS[f.name.lower()]: f for f in entries(root).folders if f.name.lower() in PARTS}
    folder = root
    if "train" in folders:
        folder = folders.get("test") or folders.get("val") or root
    part = read_part(folder, root)
    images = [(path, name) for name in part.classes for path in part.images[name]]
    if not images:
        raise UserError(
            f"there are no images in class folders below {printable(folder)}",
            f"put them into {printable(folder)}/<class>/, named as the model names its classes",
        )
    return folder, images
