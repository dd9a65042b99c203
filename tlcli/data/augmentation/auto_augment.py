"""RandAugment and TrivialAugment over torchvision's functions, with draws of our own.

torchvision's classes do the same (tests compare the two), but draw from torch's global generator.
"""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

BINS = 31
"""Magnitudes there are, the weakest first."""
RAND_OPERATIONS = 2
"""That RandAugment applies one after the other."""
Fill = tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One of the operations that both policies draw from.

    Attributes:
        apply: a view, a magnitude and the colour of what lies outside, to another view.
        least: the magnitude of the weakest bin.
        rand, trivial: that of the strongest one in RandAugment and in TrivialAugment.
        signed: it goes either way.
        of_side: RandAugment's magnitude is a share of the view's side.
    """

    apply: Callable[[Image.Image, float, Fill], Image.Image]
    rand: float = 0.0
    trivial: float = 0.0
    least: float = 0.0
    signed: bool = False
    of_side: bool = False


def _affine(
    view: Image.Image, fill: Fill, x: float = 0, y: float = 0, across: float = 0, down: float = 0
) -> Image.Image:
    """Shifted by whole pixels, or sheared by a slope, which leaves the upper left corner."""
    moved: Image.Image = F.affine(
        view,
        angle=0.0,
        translate=[int(x), int(y)],
        scale=1.0,
        shear=[math.degrees(math.atan(across)), math.degrees(math.atan(down))],
        interpolation=InterpolationMode.BILINEAR,
        fill=list(fill),
        center=[0, 0] if across or down else None,
    )
    return moved


def _color(change: Callable[..., Any]) -> Operation:
    return Operation(lambda v, m, _: change(v, 1 + m), rand=0.9, trivial=0.99, signed=True)


_SHEAR: dict[str, Any] = {"rand": 0.3, "trivial": 0.99, "signed": True}
_SHIFT: dict[str, Any] = {"rand": 150 / 331, "trivial": 32, "signed": True, "of_side": True}

OPERATIONS: Mapping[str, Operation] = {
    "Identity": Operation(lambda v, _, __: v),
    "ShearX": Operation(lambda v, m, fill: _affine(v, fill, across=m), **_SHEAR),
    "ShearY": Operation(lambda v, m, fill: _affine(v, fill, down=m), **_SHEAR),
    "TranslateX": Operation(lambda v, m, fill: _affine(v, fill, x=m), **_SHIFT),
    "TranslateY": Operation(lambda v, m, fill: _affine(v, fill, y=m), **_SHIFT),
    "Rotate": Operation(
        lambda v, m, fill: F.rotate(v, m, InterpolationMode.BILINEAR, fill=list(fill)),
        rand=30,
        trivial=135,
        signed=True,
    ),
    "Brightness": _color(F.adjust_brightness),
    "Color": _color(F.adjust_saturation),
    "Contrast": _color(F.adjust_contrast),
    "Sharpness": _color(F.adjust_sharpness),
    "Posterize": Operation(lambda v, m, _: F.posterize(v, round(m)), least=8, rand=4, trivial=2),
    "Solarize": Operation(lambda v, m, _: F.solarize(v, 255 * m), least=1, rand=0, trivial=0),
    "AutoContrast": Operation(lambda v, _, __: F.autocontrast(v)),
    "Equalize": Operation(lambda v, _, __: F.equalize(v)),
}


def rand_augment(view: Image.Image, magnitude: int, fill: Fill, rng: random.Random) -> Image.Image:
    """Two operations of one magnitude, 0 to 30 (RandAugment, Cubuk et al. 2020)."""
    for name in rng.choices(list(OPERATIONS), k=RAND_OPERATIONS):
        of_side = view.width if OPERATIONS[name].of_side else 1
        view = _applied(view, name, OPERATIONS[name].rand * of_side, magnitude, fill, rng)
    return view


def trivial_augment(view: Image.Image, fill: Fill, rng: random.Random) -> Image.Image:
    """One operation of any magnitude (TrivialAugment, Mueller and Hutter 2021)."""
    name = rng.choice(list(OPERATIONS))
    return _applied(view, name, OPERATIONS[name].trivial, rng.randrange(BINS), fill, rng)


def _applied(
    view: Image.Image, name: str, greatest: float, step: int, fill: Fill, rng: random.Random
) -> Image.Image:
    operation = OPERATIONS[name]
    magnitude = operation.least + (greatest - operation.least) * step / (BINS - 1)
    if operation.signed and rng.random() < 0.5:
        magnitude = -magnitude
    return operation.apply(view, magnitude, fill)
