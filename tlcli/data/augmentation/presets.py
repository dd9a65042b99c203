"""What `--augment` says: a preset, single transforms by name, or both."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tlcli.errors import UsageError, did_you_mean

Values = dict[str, float]
"""The strength of each transform that is on, by its name."""


@dataclass(frozen=True)
class Transform:
    """A transform that can be named.

    Attributes:
        usual: its strength where only the name is given.
        most: the greatest one; 0 is off.
        what: the strength's meaning, and what the transform does.
    """

    usual: float
    most: float
    what: str


TRANSFORMS: Mapping[str, Transform] = {
    "flip": Transform(0.5, 1, "chance of a left-right mirror image"),
    "vflip": Transform(0.5, 1, "chance of a top-bottom mirror image"),
    "crop": Transform(0.5, 1, "least share of the area in view, at an aspect of 3:4 to 4:3"),
    "rotate": Transform(10, 180, "greatest turn either way, degrees"),
    "translate": Transform(0.1, 1, "greatest shift either way, as a share of the side"),
    "shear": Transform(10, 60, "greatest shear either way, degrees, across and down"),
    "jitter": Transform(0.3, 1, "brightness, contrast and saturation by up to this share"),
    "hue": Transform(0.05, 0.5, "greatest turn of the colour circle either way, in turns"),
    "grey": Transform(0.1, 1, "chance of no colour"),
    "pca": Transform(0.1, 10, "shift along the images' principal colours (AlexNet), deviations"),
    "randaugment": Transform(9, 30, "two random operations of this magnitude"),
    "trivialaugment": Transform(1, 1, "chance of one random operation of random magnitude"),
    "erase": Transform(0.25, 1, "chance of a rectangle without picture"),
    "mixup": Transform(0.2, 10, "alpha of a blend with another image (batches)"),
    "cutmix": Transform(1, 10, "alpha of a rectangle of another image (batches)"),
}

PRESETS: Mapping[str, Mapping[str, float]] = {
    "none": {},
    "light": {"flip": 0.5, "crop": 0.5, "rotate": 10},
    "standard": {"flip": 0.5, "crop": 0.35, "rotate": 15, "shear": 5, "jitter": 0.3, "pca": 0.1},
    "strong": {"flip": 0.5, "crop": 0.25, "trivialaugment": 1, "pca": 0.1, "erase": 0.25},
}
DEFAULT = "light"


def parse(text: str) -> Values:
    """The strengths that `text` asks for, such as "light", "standard,vflip,rotate=30", "flip,pca".

    A preset comes first or not at all; what follows adds to it, and 0 takes away from it.

    Raises:
        UsageError: an unknown name, or a strength that is no number or out of range; of several
            faults all are told.
    """
    first, *rest = [part.strip() for part in text.split(",")]
    if first not in PRESETS:
        first, rest = "none", [first, *rest]
    values, faults, hints = dict(PRESETS[first]), [], []
    named: set[str] = set()
    for part in rest:
        name, equals, number = (word.strip() for word in part.partition("="))
        known = TRANSFORMS.get(name)
        if known is None:
            faults.append(_unknown(name))
            wrong = name and name not in PRESETS
            hints.append(did_you_mean(name, [*PRESETS, *TRANSFORMS]) if wrong else "")
        elif name in named:
            faults.append(f"{name} is named twice")
        else:
            value = _number(number) if equals else known.usual
            if value is None or not 0 <= value <= known.most:
                faults.append(f"{part}: it is a number from 0 (off) to {known.most:g}")
            else:
                values[name] = value
        named.add(name)
    if faults:
        usual = f"a preset ({', '.join(PRESETS)}), then transforms: light,vflip,rotate=30"
        raise UsageError(
            f"--augment: {'; '.join(dict.fromkeys(faults))}", next(filter(None, hints), usual)
        )
    return {name: values[name] for name in TRANSFORMS if values.get(name)}


def _unknown(name: str) -> str:
    if name in PRESETS:
        return f"the preset {name} must come first, and there is one only"
    return f"{name!r} is not known" if name else "there is nothing between two commas"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value
