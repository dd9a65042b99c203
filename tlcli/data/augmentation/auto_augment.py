"""RandAugment and TrivialAugment by torchvision's functions, with random draws of our own.

torchvision's classes do the same (tests compare the two) but draw from torch's global generator.
"""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

MAGNITUDE_BINS = 31
"""Number of magnitudes, of which bin 0 is the weakest."""
RAND_AUGMENT_OPERATIONS = 2
"""Number of operations that RandAugment applies one after the other."""
Fill = tuple[int, ...]
"""A color, one number from 0 to 255 per channel."""


@dataclass(frozen=True)
class Operation:
    """An operation that both policies draw from.

    Attributes:
        apply: maps a view, a magnitude and the color of the area outside to another view.
        rand: RandAugment's magnitude in the strongest bin.
        trivial: TrivialAugment's magnitude in the strongest bin.
        weakest: the magnitude in the weakest bin.
        signed: whether the magnitude is negated half of the time.
        of_side: whether RandAugment's magnitude is a share of the view's side.
    """

    apply: Callable[[Image.Image, float, Fill], Image.Image]
    rand: float = 0.0
    trivial: float = 0.0
    weakest: float = 0.0
    signed: bool = False
    of_side: bool = False


def rand_augment(view: Image.Image, magnitude: int, fill: Fill, rng: random.Random) -> Image.Image:
    """Apply two random operations of one magnitude, 0 to 30 (RandAugment, Cubuk et al. 2020)."""
    for name in rng.choices(list(OPERATIONS), k=RAND_AUGMENT_OPERATIONS):
        operation = OPERATIONS[name]
        strongest = operation.rand * (view.width if operation.of_side else 1)
        view = _apply(operation, view, strongest, magnitude, fill, rng)
    return view


def trivial_augment(view: Image.Image, fill: Fill, rng: random.Random) -> Image.Image:
    """Apply one random operation of random magnitude (TrivialAugment, Mueller and Hutter 2021)."""
    operation = OPERATIONS[rng.choice(list(OPERATIONS))]
    return _apply(operation, view, operation.trivial, rng.randrange(MAGNITUDE_BINS), fill, rng)


def _apply(
    operation: Operation,
    view: Image.Image,
    strongest: float,
    magnitude_bin: int,
    fill: Fill,
    rng: random.Random,
) -> Image.Image:
    """Apply `operation` with the magnitude of a bin, given the strongest bin's."""
    span = strongest - operation.weakest
    magnitude = operation.weakest + span * magnitude_bin / (MAGNITUDE_BINS - 1)
    if operation.signed and rng.random() < 0.5:
        magnitude = -magnitude
    return operation.apply(view, magnitude, fill)


def _affine(
    view: Image.Image, fill: Fill, x: float = 0, y: float = 0, across: float = 0, down: float = 0
) -> Image.Image:
    """Shift a view by whole pixels, or shear it by a slope with the upper left corner fixed."""
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
    """Return the operation for a color change whose neutral factor is 1."""
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
    "Posterize": Operation(lambda v, m, _: F.posterize(v, round(m)), weakest=8, rand=4, trivial=2),
    "Solarize": Operation(lambda v, m, _: F.solarize(v, 255 * m), weakest=1, rand=0, trivial=0),
    "AutoContrast": Operation(lambda v, _, __: F.autocontrast(v)),
    "Equalize": Operation(lambda v, _, __: F.equalize(v)),
}
"""The operations by torchvision's names, in its order, which the random draws depend on."""
