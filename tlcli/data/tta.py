"""Several views of one picture at prediction, whose answers are averaged."""

from collections.abc import Callable, Mapping

import torch
from PIL import Image, ImageOps

from tlcli.data.preprocessing import Preprocessing, to_tensor


def _plain(image: Image.Image, pre: Preprocessing) -> list[Image.Image]:
    return [pre.center(image)]


def _five(image: Image.Image, pre: Preprocessing) -> list[Image.Image]:
    from torchvision.transforms.v2 import functional as F  # a second of importing

    *corners, center = F.five_crop(pre.resized(image), [pre.crop, pre.crop])
    return [center, *corners]


VIEWS: Mapping[str, tuple[Callable[[Image.Image, Preprocessing], list[Image.Image]], bool]] = {
    "none": (_plain, False),
    "flip": (_plain, True),
    "5": (_five, False),
    "10": (_five, True),
}
"""By what `--tta` says: the crops, the centre first, and whether their mirror images follow."""


def views(image: Image.Image, pre: Preprocessing, tta: str) -> torch.Tensor:
    """The views of an RGB picture, the plain one first: uint8 [views, 3, crop, crop].

    "flip" adds the mirror image, "5" the corners of the resized picture, "10" both (Krizhevsky
    et al. 2012). Where the preprocessing cuts nothing away, a square picture's corners are all the
    same as its centre.
    """
    crops, mirrored = VIEWS[tta]
    cut = crops(image, pre)
    if mirrored:
        cut += [ImageOps.mirror(view) for view in cut]
    return torch.stack([to_tensor(view) for view in cut])


def count(tta: str) -> int:
    """How many views `views` gives."""
    crops, mirrored = VIEWS[tta]
    return (5 if crops is _five else 1) * (2 if mirrored else 1)
