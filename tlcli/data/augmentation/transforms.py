"""The less common transforms of a view, by torchvision's functions with random draws of our own.

torchvision's classes (`RandomErasing`, `ColorJitter`, `RandAugment`, ...) draw from torch's global
generator, which threads share. Here all draws come from the view's own generator.
"""

import random

from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from tlcli.data.augmentation.auto_augment import Fill, rand_augment, trivial_augment
from tlcli.data.augmentation.spec import Augmentation, PrincipalColors, random_box

ERASED_SCALE = (0.02, 0.33)
"""Range of the erased share of the view (Zhong et al. 2017)."""
ERASED_RATIO = (0.3, 3.3)
"""Range of the erased rectangle's width over height (Zhong et al. 2017)."""


def apply_transforms(
    view: Image.Image, angle: float, aug: Augmentation, fill: Fill, rng: random.Random
) -> Image.Image:
    """Apply the transforms that `aug` turns on to a square RGB view, and rotate it.

    Args:
        angle: rotation in degrees, counterclockwise.
        fill: color of the area outside the image and of the erased area.
    """
    if aug.vflip and rng.random() < aug.vflip:
        view = F.vertical_flip(view)
    if aug.randaugment:
        view = rand_augment(view, round(aug.randaugment), fill, rng)
    if aug.trivialaugment and rng.random() < aug.trivialaugment:
        view = trivial_augment(view, fill, rng)
    if aug.jitter or aug.hue:
        view = _jitter_colors(view, aug, rng)
    if aug.gray and rng.random() < aug.gray:
        view = F.to_grayscale(view, num_output_channels=3)
    if aug.pca:
        view = shift_colors(view, aug.principal_colors, aug.pca, rng)
    # after all color changes, which would change `fill` too
    if angle or aug.translate or aug.shear:
        view = _apply_affine(view, angle, aug, fill, rng)
    if aug.erase and rng.random() < aug.erase:
        view = view.copy()
        view.paste(fill, random_box(view.size, ERASED_SCALE, ERASED_RATIO, rng))
    return view


def shift_colors(
    view: Image.Image, colors: PrincipalColors | None, deviation: float, rng: random.Random
) -> Image.Image:
    """Add one random color to all pixels of an RGB view (Krizhevsky et al. 2012).

    The color is the sum of the principal colors, each times a draw from a normal distribution.

    Args:
        deviation: standard deviation of the draws; 0.1 in the paper.

    Raises:
        ValueError: the principal colors are None.
    """
    if colors is None:
        raise ValueError("a color shift needs the principal colors of the training images")
    draws = [rng.gauss(0, deviation) for _ in colors]
    added = [255 * sum(a * row[k] for a, row in zip(draws, colors, strict=True)) for k in range(3)]
    return view.point([min(255, max(0, round(v + add))) for add in added for v in range(256)])


_JITTER_FUNCTIONS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)


def _jitter_colors(view: Image.Image, aug: Augmentation, rng: random.Random) -> Image.Image:
    """Change brightness, contrast, saturation and hue in random order, as ColorJitter does."""
    changes = []
    if aug.jitter:
        low, high = 1 - aug.jitter, 1 + aug.jitter
        changes += [(change, rng.uniform(low, high)) for change in _JITTER_FUNCTIONS]
    if aug.hue:
        changes.append((F.adjust_hue, rng.uniform(-aug.hue, aug.hue)))
    rng.shuffle(changes)
    for change, strength in changes:
        view = change(view, strength)
    return view


def _apply_affine(
    view: Image.Image, angle: float, aug: Augmentation, fill: Fill, rng: random.Random
) -> Image.Image:
    """Rotate, shift and shear in one step, so that pixels are interpolated once."""
    shift = [round(side * rng.uniform(-aug.translate, aug.translate)) for side in view.size]
    shear = [rng.uniform(-aug.shear, aug.shear) for _ in range(2)]
    return F.affine(
        view,
        angle=-angle,  # counterclockwise, as Pillow's rotation is
        translate=shift,
        scale=1.0,
        shear=shear,
        interpolation=InterpolationMode.BILINEAR,
        fill=list(fill),
    )
