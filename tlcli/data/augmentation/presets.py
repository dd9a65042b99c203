"""The transforms and presets of `--augment`, and its parser."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tlcli.errors import UsageError, did_you_mean

Strengths = dict[str, float]
"""The strength of each transform that is on, by the transform's name."""


@dataclass(frozen=True)
class Transform:
    """A transform that `--augment` can name.

    Attributes:
        default: its strength if only the name is given.
        max: its greatest strength; 0 is off.
        description: the strength's meaning, and what the transform does.
    """

    default: float
    max: float
    description: str


TRANSFORMS: Mapping[str, Transform] = {
    "flip": Transform(0.5, 1, "probability of a left-right mirror image"),
    "vflip": Transform(0.5, 1, "probability of a top-bottom mirror image"),
    "crop": Transform(0.5, 1, "smallest share of the area in view, at an aspect of 3:4 to 4:3"),
    "rotate": Transform(10, 180, "greatest rotation either way, degrees"),
    "translate": Transform(0.1, 1, "greatest shift either way, as a share of the side"),
    "shear": Transform(10, 60, "greatest shear either way, degrees, across and down"),
    "jitter": Transform(0.3, 1, "brightness, contrast and saturation by up to this share"),
    "hue": Transform(0.05, 0.5, "greatest rotation of the color circle either way, in turns"),
    "grey": Transform(0.1, 1, "probability of grayscale"),
    "pca": Transform(0.1, 10, "shift along the images' principal colors (AlexNet), deviations"),
    "randaugment": Transform(9, 30, "two random operations of this magnitude"),
    "trivialaugment": Transform(1, 1, "probability of one random operation of random magnitude"),
    "erase": Transform(0.25, 1, "probability of an erased rectangle"),
    "mixup": Transform(0.2, 10, "alpha of a blend with another image (batches)"),
    "cutmix": Transform(1, 10, "alpha of a rectangle of another image (batches)"),
}

PRESETS: Mapping[str, Mapping[str, float]] = {
    "none": {},
    "light": {"flip": 0.5, "crop": 0.5, "rotate": 10},
    "standard": {"flip": 0.5, "crop": 0.35, "rotate": 15, "shear": 5, "jitter": 0.3, "pca": 0.1},
    "strong": {"flip": 0.5, "crop": 0.25, "trivialaugment": 1, "pca": 0.1, "erase": 0.25},
}
DEFAULT_PRESET = "light"


def parse_augment(text: str) -> Strengths:
    """Parse the value of `--augment`: "light", "standard,vflip,rotate=30" or "flip,pca".

    A preset comes first or not at all. Transforms after it are added, and a strength of 0 removes
    one.

    Raises:
        UsageError: a name is unknown, or a strength is not a number or out of range; the message
            lists all errors.
    """
    first, *rest = [part.strip() for part in text.split(",")]
    if first not in PRESETS:
        first, rest = "none", [first, *rest]
    strengths, errors, hints = dict(PRESETS[first]), [], []
    named: set[str] = set()
    for part in rest:
        name, equals, number = (word.strip() for word in part.partition("="))
        transform = TRANSFORMS.get(name)
        if transform is None:
            errors.append(_unknown_name(name))
            mistyped = name and name not in PRESETS
            hints.append(did_you_mean(name, [*PRESETS, *TRANSFORMS]) if mistyped else "")
        elif name in named:
            errors.append(f"{name} is named twice")
        else:
            value = _parse_number(number) if equals else transform.default
            if value is None or not 0 <= value <= transform.max:
                errors.append(f"{part}: it takes a number from 0 (off) to {transform.max:g}")
            else:
                strengths[name] = value
        named.add(name)
    if errors:
        usage = f"a preset ({', '.join(PRESETS)}), then transforms: light,vflip,rotate=30"
        raise UsageError(
            f"--augment: {'; '.join(dict.fromkeys(errors))}", next(filter(None, hints), usage)
        )
    return {name: strengths[name] for name in TRANSFORMS if strengths.get(name)}


def _unknown_name(name: str) -> str:
    """Return the message for a name that is not a transform."""
    if name in PRESETS:
        return f"the preset {name} must come first, and there can be only one"
    return f"{name!r} is unknown" if name else "a name is missing between two commas"


def _parse_number(text: str) -> float | None:
    """Return `text` as a number, whole if possible; None if it is not a finite number."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value
