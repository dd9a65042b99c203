"""Random views of a picture for training, drawn from a generator of their own."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields

Box = tuple[int, int, int, int]
Range = tuple[float, float]
Colours = tuple[tuple[float, float, float], ...]

RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Augmentation:
    """What a random view may differ in; what is 0 or None is off.

    As text it is part of the feature cache's keys, so that text names only what is on.

    Attributes:
        flip: probability of a left-right mirror image.
        scale: least and greatest part of the picture's area in view; None: the part that the
            preprocessing shows.
        ratio: least and greatest width over height of that part, before it is made square.
        degrees: greatest rotation either way.
        vflip, translate, shear, jitter, hue, grey, pca, randaugment, trivialaugment, erase:
            strengths, as `tlcli.data.augmentation.presets.TRANSFORMS` tells them.
        colours: what `pca` shifts along; see `tlcli.data.augmentation.pca_color.principal_colours`.
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
    grey: float = 0
    pca: float = 0
    randaugment: float = 0
    trivialaugment: float = 0
    erase: float = 0
    colours: Colours | None = None

    def __str__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = [f"{k}={v!r}" for i, (k, v) in enumerate(values.items()) if i < 4 or v]
        return f"Augmentation({', '.join(shown)})"

    @property
    def more(self) -> bool:
        """Whether anything beside crop, mirror image and rotation is on."""
        return any(getattr(self, field.name) for field in fields(self)[4:])


def make_augmentation(
    values: Mapping[str, float], colours: Colours | None = None
) -> Augmentation | None:
    """Return the views that `values` (of `presets.parse`) ask for; None for plain ones.

    What they say of mixing is left to `tlcli.data.augmentation.mixup`.
    """
    own = {field.name for field in fields(Augmentation)}
    known = {name: value for name, value in values.items() if name in own}
    crop, degrees = values.get("crop", 0), values.get("rotate", 0)
    if not (known or crop or degrees):
        return None
    scale = (crop, 1.0) if crop else None
    return Augmentation(
        **{"flip": 0, **known}, scale=scale, ratio=RATIO, degrees=degrees, colours=colours
    )


def random_box(size: tuple[int, int], scale: Range, ratio: Range, rng: random.Random) -> Box:
    """A part of a picture: left, top, right, bottom, in pixels.

    Its share of the area is drawn from `scale`, its width over height from `ratio`, as
    torchvision's RandomResizedCrop does (Inception's way, Szegedy et al. 2014), whose own draws
    come from torch's global generator.
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    # a long picture, into which no such part fits: the largest central one of a ratio allowed
    w = max(1, min(width, round(height * ratio[1])))
    h = max(1, min(height, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
