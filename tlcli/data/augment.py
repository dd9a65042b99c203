"""Random views of a picture for training, drawn from a generator of their own."""

import math
import random
from dataclasses import dataclass

import torch
from PIL import Image, ImageOps

from tlcli.data.preprocessing import INTERPOLATIONS, Preprocessing, to_tensor

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Augmentation:
    """What a random view may differ in.

    Attributes:
        flip: probability of a left-right mirror image.
        scale: least and greatest part of the picture's area in view.
        ratio: least and greatest width over height of that part, before it is made square.
        degrees: greatest rotation either way.
    """

    flip: float
    scale: tuple[float, float]
    ratio: tuple[float, float]
    degrees: float


AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    "light": Augmentation(flip=0.5, scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3), degrees=10),
}


def augmented(
    image: Image.Image, pre: Preprocessing, aug: Augmentation, rng: random.Random
) -> torch.Tensor:
    """A random view of an RGB picture, as uint8 [3, crop, crop].

    Draws from `rng` alone, so that a view depends on its seed and not on threads or order.
    """
    box = random_box(image.size, aug, rng)
    view = image.resize((pre.crop, pre.crop), INTERPOLATIONS[pre.interpolation], box)
    if rng.random() < aug.flip:
        view = ImageOps.mirror(view)
    if aug.degrees:
        # corners take the mean colour, zero once normalised: black ones would be edges to learn
        mean = tuple(min(255, max(0, round(255 * value))) for value in pre.mean)
        angle = rng.uniform(-aug.degrees, aug.degrees)
        view = view.rotate(angle, Image.Resampling.BILINEAR, fillcolor=mean)
    return to_tensor(view)


def random_box(size: tuple[int, int], aug: Augmentation, rng: random.Random) -> Box:
    """The part of a picture to view: left, top, right, bottom, in pixels.

    As torchvision's RandomResizedCrop draws it (Inception's way, Szegedy et al. 2014), whose own
    draws come from torch's global generator.
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(*aug.scale)
        ratio = math.exp(rng.uniform(math.log(aug.ratio[0]), math.log(aug.ratio[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    # a long picture, into which no such part fits: the largest central one of a ratio allowed
    w = max(1, min(width, round(height * aug.ratio[1])))
    h = max(1, min(height, round(width / aug.ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
