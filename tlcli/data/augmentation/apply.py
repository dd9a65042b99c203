"""Making a random view of an image."""

import random

import torch
from PIL import Image, ImageOps

from tlcli.data.augmentation.spec import Augmentation, random_box
from tlcli.data.preprocessing import INTERPOLATIONS, Preprocessing, to_tensor


def augment_image(
    image: Image.Image, pre: Preprocessing, aug: Augmentation, rng: random.Random
) -> torch.Tensor:
    """Make a random view of an RGB image, as uint8 [3, crop, crop].

    All draws come from `rng`, so that a view depends on its seed and not on threads or order.
    """
    if aug.scale is None:
        view = pre.resize_and_crop(image)
    else:
        box = random_box(image.size, aug.scale, aug.ratio, rng)
        view = image.resize((pre.crop, pre.crop), INTERPOLATIONS[pre.interpolation], box)
    if rng.random() < aug.flip:
        view = ImageOps.mirror(view)
    angle = rng.uniform(-aug.degrees, aug.degrees) if aug.degrees else 0.0
    # corners get the mean color, which is zero once normalized: black ones would be edges to learn
    mean = tuple(min(255, max(0, round(255 * value))) for value in pre.mean)
    if aug.needs_torchvision:
        # torchvision takes seconds to import
        from tlcli.data.augmentation.transforms import apply_transforms

        view = apply_transforms(view, angle, aug, mean, rng)
    elif angle:
        view = view.rotate(angle, Image.Resampling.BILINEAR, fillcolor=mean)
    return to_tensor(view)
