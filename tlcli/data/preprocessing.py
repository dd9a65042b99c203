"""The one way from a picture to the pixels that a network sees."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from PIL import Image

from tlcli.errors import UserError

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
MOST_PIXELS_A_SIDE = 4096  # a damaged bundle must not ask for terabytes
SPARE = 2
"""Times `resize` that the shorter side of a decoded picture keeps, where it had it: reading a JPEG
smaller is then hardly seen in what resizing makes of it (docs/decisions/data-and-decoding.md)."""
LONGEST = 32  # pictures this many times as long as wide are cut to it before resizing


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side, cut the centre, normalise: travels with the weights.

    Attributes:
        resize: length of the shorter side after resizing, pixels.
        crop: side of the central square that is kept, pixels; not above `resize`.
        interpolation: "bilinear" or "bicubic", both antialiased.
        mean, std: a channel each (red, green, blue), of pixels scaled to 0..1.

    Raises:
        ValueError: a value is out of range.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize <= MOST_PIXELS_A_SIDE:
            raise ValueError(f"crop {self.crop} and resize {self.resize} do not fit each other")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation {self.interpolation!r} is not bilinear or bicubic")
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)):
            raise ValueError("mean and std must be finite")
        if min(self.std) <= 0:
            raise ValueError("std must be above zero")

    @property
    def least(self) -> int:
        """Pixels that the shorter side of a picture must be decoded to, where it has them."""
        return SPARE * self.resize

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; `from_dict` reads it back."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: object) -> "Preprocessing":
        """What `to_dict` wrote, checked: it may come from a bundle that nobody vouches for.

        Raises:
            UserError: a field is missing, unknown, of a wrong type or out of range.
        """
        try:
            return cls(**_checked(values))
        except ValueError as error:
            raise UserError(
                f"the preprocessing is not valid: {error}",
                "the file is damaged or was not written by tlcli; train or download it again",
            ) from None

    def fit(self, image: Image.Image) -> torch.Tensor:
        """The centre of an RGB picture as uint8 [3, crop, crop].

        Equal to torchvision's `weights.transforms()` on the same picture up to normalising.
        """
        return to_tensor(self.center(image))

    def center(self, image: Image.Image) -> Image.Image:
        """The centre of an RGB picture, `crop` pixels a side."""
        image = self.resized(image)
        # torchvision rounds halves to even here, and so must this
        left = round((image.width - self.crop) / 2)
        top = round((image.height - self.crop) / 2)
        return image.crop((left, top, left + self.crop, top + self.crop))

    def resized(self, image: Image.Image) -> Image.Image:
        """An RGB picture with its shorter side `resize` pixels long."""
        image = _not_too_long(image)
        width, height = image.size
        shorter = min(width, height)
        size = (self.resize * width // shorter, self.resize * height // shorter)
        if size == image.size:
            return image
        return image.resize(size, INTERPOLATIONS[self.interpolation])

    def normalize(self, batch: torch.Tensor) -> torch.Tensor:
        """`batch`: uint8 [n, 3, h, w] -> float32 [n, 3, h, w] on the same device."""
        mean = torch.tensor(self.mean, dtype=torch.float32, device=batch.device)
        std = torch.tensor(self.std, dtype=torch.float32, device=batch.device)
        scaled = batch.to(torch.float32).div_(255)
        return scaled.sub_(mean[:, None, None]).div_(std[:, None, None])


def to_tensor(image: Image.Image) -> torch.Tensor:
    """An RGB picture as uint8 [3, height, width]."""
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()


def _not_too_long(image: Image.Image) -> Image.Image:
    """The middle of a picture over `LONGEST` times as long as wide; any other as it is.

    A strip of 1 x 1,000,000 pixels would grow to 256 x 256,000,000 for a crop of 224.
    """
    width, height = image.size
    most = LONGEST * min(width, height)
    x, y = max(0, width - most) // 2, max(0, height - most) // 2
    # as much from either end, so that the middle stays where it was
    return image.crop((x, y, width - x, height - y)) if x or y else image


def _checked(values: object) -> dict[str, Any]:
    """Keyword arguments for `Preprocessing`, their types checked.

    Raises:
        ValueError: a field is missing, unknown or of a wrong type.
    """
    names = {field.name for field in fields(Preprocessing)}
    if not isinstance(values, Mapping) or set(values) != names:
        raise ValueError("its fields must be " + ", ".join(sorted(names)))
    for name in ("resize", "crop"):
        if type(values[name]) is not int:  # a bool is an int to isinstance
            raise ValueError(f"{name} must be a whole number")
    if not isinstance(values["interpolation"], str):
        raise ValueError("interpolation must be a name")
    return dict(values) | {name: _three(name, values[name]) for name in ("mean", "std")}


def _three(name: str, values: object) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise ValueError(f"{name} must be three numbers")
    if not all(type(value) in (int, float) for value in values):
        raise ValueError(f"{name} must be three numbers")
    return tuple(float(value) for value in values)
