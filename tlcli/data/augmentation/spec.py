"""The class `Augmentation`: how random views may differ from the plain view of an image."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields

Box = tuple[int, int, int, int]
Range = tuple[float, float]
PrincipalColors = tuple[tuple[float, float, float], ...]

ASPECT_RATIO = (3 / 4, 4 / 3)

_STORED_NAMES = {"gray": "grey", "principal_colors": "colours"}
"""The names of fields in `--augment` and in the feature cache's keys, if they differ."""


@dataclass(frozen=True)
class Augmentation:
    """How a random view may differ from the plain view; whatever is 0 or None is off.

    Its text is part of the feature cache's keys, so it names only what is on.

    Attributes:
        flip: probability of a left-right mirror image.
        scale: range of the share of the image's area in view; None for the part that the
            preprocessing shows.
        ratio: range of that part's width over height, before it is made square.
        degrees: greatest rotation in either direction.
        vflip, translate, shear, jitter, hue, gray, pca, randaugment, trivialaugment, erase:
            strengths, described in `tlcli.data.augmentation.presets.TRANSFORMS`.
        principal_colors: the colors that `pca` shifts along; see
            `tlcli.data.augmentation.pca_color.principal_colors`.
    """

    flip: float
    scale: Range | None
    ratio: Range
    degrees: float
    vflip: float = 0
    translate: float = 0
    shear: float = 0
    jitter: float = 0
    hue: float = 0
    gray: float = 0
    pca: float = 0
    randaugment: float = 0
    trivialaugment: float = 0
    erase: float = 0
    principal_colors: PrincipalColors | None = None

    def __str__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = [
            f"{_STORED_NAMES.get(name, name)}={value!r}"
            for i, (name, value) in enumerate(values.items())
            if i < 4 or value
        ]
        return f"Augmentation({', '.join(shown)})"

    @property
    def needs_torchvision(self) -> bool:
        """Whether anything is on besides crop, left-right mirror image and rotation."""
        return any(getattr(self, field.name) for field in fields(self)[4:])


def make_augmentation(
    strengths: Mapping[str, float], principal_colors: PrincipalColors | None = None
) -> Augmentation | None:
    """Return the augmentation with these strengths; None if all views are plain.

    Args:
        strengths: as `presets.parse_augment` returns them; mixing transforms are ignored.
    """
    names = {
        _STORED_NAMES.get(field.name, field.name): field.name for field in fields(Augmentation)
    }
    known = {names[name]: value for name, value in strengths.items() if name in names}
    crop, degrees = strengths.get("crop", 0), strengths.get("rotate", 0)
    if not (known or crop or degrees):
        return None
    return Augmentation(
        **{"flip": 0, **known},
        scale=(crop, 1.0) if crop else None,
        ratio=ASPECT_RATIO,
        degrees=degrees,
        principal_colors=principal_colors,
    )


def random_box(size: tuple[int, int], scale: Range, ratio: Range, rng: random.Random) -> Box:
    """Draw a random part of an image, as torchvision's RandomResizedCrop does.

    torchvision's own draws come from torch's global generator. The method is from Inception
    (Szegedy et al. 2014).

    Args:
        size: width and height of the image, in pixels.
        scale: range of the part's share of the area.
        ratio: range of its width over height.

    Returns:
        Left, top, right and bottom, in pixels.
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    # no such part fits into a long image: take the largest central one of an allowed ratio
    w = max(1, min(width, round(height * ratio[1])))
    h = max(1, min(height, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
