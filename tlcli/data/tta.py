"""Test-time augmentation: several views of an image, whose predictions are averaged."""

from collections.abc import Callable, Mapping

import torch
from PIL import Image, ImageOps

from tlcli.data.preprocessing import Preprocessing, to_tensor


def make_views(image: Image.Image, pre: Preprocessing, tta: str) -> torch.Tensor:
    """Return the views of an RGB image as uint8 [views, 3, crop, crop], the plain one first.

    "flip" adds the mirror image, "5" the corners of the resized image, "10" both (Krizhevsky et
    al. 2012). If the preprocessing crops nothing, a square image's corners equal its center.
    """
    crop_views, mirrored = TTA_VIEWS[tta]
    crops = crop_views(image, pre)
    if mirrored:
        crops += [ImageOps.mirror(crop) for crop in crops]
    return torch.stack([to_tensor(crop) for crop in crops])


def count_views(tta: str) -> int:
    """Return how many views `make_views` returns."""
    crop_views, mirrored = TTA_VIEWS[tta]
    return (5 if crop_views is _five_crops else 1) * (2 if mirrored else 1)


def _center_crop(image: Image.Image, pre: Preprocessing) -> list[Image.Image]:
    """Return the center crop alone."""
    return [pre.resize_and_crop(image)]


def _five_crops(image: Image.Image, pre: Preprocessing) -> list[Image.Image]:
    """Return the center crop and the four corners."""
    from torchvision.transforms.v2 import functional as F  # takes a second to import

    *corners, center = F.five_crop(pre.resize_shorter_side(image), [pre.crop, pre.crop])
    return [center, *corners]


TTA_VIEWS: Mapping[str, tuple[Callable[[Image.Image, Preprocessing], list[Image.Image]], bool]] = {
    "none": (_center_crop, False),
    "flip": (_center_crop, True),
    "5": (_five_crops, False),
    "10": (_five_crops, True),
}
"""For each choice of `--tta` the crops, and whether their mirror images are added."""
