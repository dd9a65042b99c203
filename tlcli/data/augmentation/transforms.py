"""The rarer changes of a view, by torchvision's functions, each drawn from the view's generator.

torchvision's own classes (`RandomErasing`, `ColorJitter`, `RandAugment`, ...) draw from torch's
global generator, which threads share; so the draws are ours and the work is theirs.
"""

import random

from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from tlcli.data.augmentation.auto_augment import rand_augment, trivial_augment
from tlcli.data.augmentation.spec import Augmentation, Colours, random_box

ERASED, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
"""Share of the view that is erased, and its width over height (Zhong et al. 2017)."""


def apply_transforms(
    view: Image.Image,
    angle: float,
    aug: Augmentation,
    fill: tuple[int, ...],
    rng: random.Random,
) -> Image.Image:
    """A square RGB view, turned by `angle` degrees and changed as `aug` says.

    `fill` is the colour of what lies outside of the picture and of what is erased.
    """
    if aug.vflip and rng.random() < aug.vflip:
        view = F.vertical_flip(view)
    if aug.randaugment:
        view = rand_augment(view, round(aug.randaugment), fill, rng)
    if aug.trivialaugment and rng.random() < aug.trivialaugment:
        view = trivial_augment(view, fill, rng)
    if aug.jitter or aug.hue:
        view = _jittered(view, aug, rng)
    if aug.grey and rng.random() < aug.grey:
        view = F.to_grayscale(view, num_output_channels=3)
    if aug.pca:
        view = shift_colors(view, aug.colours, aug.pca, rng)
    # last, as `fill` is to stay the colour that it is
    if angle or aug.translate or aug.shear:
        view = _moved(view, angle, aug, fill, rng)
    if aug.erase and rng.random() < aug.erase:
        view = view.copy()
        view.paste(fill, random_box(view.size, ERASED, ERASED_RATIO, rng))
    return view


def _moved(
    view: Image.Image, angle: float, aug: Augmentation, fill: tuple[int, ...], rng: random.Random
) -> Image.Image:
    """Turned, shifted and sheared in one step, so that pixels are interpolated once."""
    shift = [round(side * rng.uniform(-aug.translate, aug.translate)) for side in view.size]
    shear = [rng.uniform(-aug.shear, aug.shear) for _ in range(2)]
    return F.affine(
        view,
        angle=-angle,  # Pillow, and so the plain rotation, counts the other way round
        translate=shift,
        scale=1.0,
        shear=shear,
        interpolation=InterpolationMode.BILINEAR,
        fill=list(fill),
    )


_JITTERED = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)


def _jittered(view: Image.Image, aug: Augmentation, rng: random.Random) -> Image.Image:
    """In random order, as torchvision's ColorJitter."""
    steps = []
    if aug.jitter:
        steps += [(change, rng.uniform(1 - aug.jitter, 1 + aug.jitter)) for change in _JITTERED]
    if aug.hue:
        steps.append((F.adjust_hue, rng.uniform(-aug.hue, aug.hue)))
    rng.shuffle(steps)
    for change, strength in steps:
        view = change(view, strength)
    return view


def shift_colors(
    view: Image.Image, colours: Colours | None, deviation: float, rng: random.Random
) -> Image.Image:
    """An RGB view with one colour added to all of its pixels.

    The colour is each principal one times a draw from a normal distribution of that `deviation`
    (0.1 in the paper).

    Raises:
        ValueError: the principal colours are not known.
    """
    if colours is None:
        raise ValueError("a colour shift needs the principal colours of the training images")
    draws = [rng.gauss(0, deviation) for _ in colours]
    added = [255 * sum(a * row[k] for a, row in zip(draws, colours, strict=True)) for k in range(3)]
    return view.point([min(255, max(0, round(v + add))) for add in added for v in range(256)])
