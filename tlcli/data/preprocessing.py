"""The preprocessing of an image into the pixels that a network sees, the same everywhere."""

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
MAX_SIDE = 4096
"""Limit of `resize` in pixels, so that a damaged bundle cannot ask for terabytes."""
DECODE_MARGIN = 2
"""Factor of `resize` that the shorter side of a decoded image keeps if it is longer.

With this margin a JPEG decoded at a reduced size is hardly different once it is resized
(docs/decisions/data-and-decoding.md)."""
MAX_ASPECT_RATIO = 32
"""Images more than this many times as long as wide are cropped to it before resizing."""


@dataclass(frozen=True)
class Preprocessing:
    """The steps resize, center crop and normalize; they are stored with the weights.

    Attributes:
        resize: length of the shorter side after resizing, in pixels.
        crop: side of the central square that is kept, in pixels; at most `resize`.
        interpolation: "bilinear" or "bicubic", both antialiased.
        mean, std: one value per channel (red, green, blue), for pixels scaled to 0..1.

    Raises:
        ValueError: a value is out of range.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize <= MAX_SIDE:
            raise ValueError(
                f"crop {self.crop} and resize {self.resize} must satisfy "
                f"1 <= crop <= resize <= {MAX_SIDE}"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation {self.interpolation!r} is not bilinear or bicubic")
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)):
            raise ValueError("mean and std must be finite")
        if min(self.std) <= 0:
            raise ValueError("std must be above zero")

    @property
    def min_side(self) -> int:
        """Pixels that the shorter side of an image must keep when it is decoded."""
        return DECODE_MARGIN * self.resize

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, for `from_dict`."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: object) -> "Preprocessing":
        """Make a preprocessing from the values of `to_dict`, which may be untrusted.

        Raises:
            UserError: a field is missing, unknown, of a wrong type or out of range.
        """
        try:
            return cls(**_check_types(values))
        except ValueError as error:
            raise UserError(
                f"the preprocessing is not valid: {error}",
                "the file is damaged or was not written by tlcli; train or download it again",
            ) from None

    def to_pixels(self, image: Image.Image) -> torch.Tensor:
        """Resize and crop an RGB image and return it as uint8 [3, crop, crop].

        The result is equal to torchvision's `weights.transforms()` on the same image before
        normalization.
        """
        return to_tensor(self.resize_and_crop(image))

    def resize_and_crop(self, image: Image.Image) -> Image.Image:
        """Return the central square of the resized RGB image, `crop` pixels a side."""
        image = self.resize_shorter_side(image)
        # torchvision rounds halves to even here, and so must this
        left = round((image.width - self.crop) / 2)
        top = round((image.height - self.crop) / 2)
        return image.crop((left, top, left + self.crop, top + self.crop))

    def resize_shorter_side(self, image: Image.Image) -> Image.Image:
        """Return the RGB image with its shorter side `resize` pixels long."""
        image = _limit_aspect_ratio(image)
        width, height = image.size
        shorter = min(width, height)
        size = (self.resize * width // shorter, self.resize * height // shorter)
        if size == image.size:
            return image
        return image.resize(size, INTERPOLATIONS[self.interpolation])

    def normalize(self, batch: torch.Tensor) -> torch.Tensor:
        """Return `batch`, uint8 [n, 3, h, w], normalized as float32 [n, 3, h, w], on its device."""
        mean = torch.tensor(self.mean, dtype=torch.float32, device=batch.device)
        std = torch.tensor(self.std, dtype=torch.float32, device=batch.device)
        scaled = batch.to(torch.float32).div_(255)
        return scaled.sub_(mean[:, None, None]).div_(std[:, None, None])


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Convert an RGB image to uint8 [3, height, width]."""
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()


def _limit_aspect_ratio(image: Image.Image) -> Image.Image:
    """Crop an image to the middle if it is over `MAX_ASPECT_RATIO` times as long as wide.

    A strip of 1 x 1,000,000 pixels would grow to 256 x 256,000,000 for a crop of 224.
    """
    width, height = image.size
    longest = MAX_ASPECT_RATIO * min(width, height)
    x, y = max(0, width - longest) // 2, max(0, height - longest) // 2
    # the same length is cut from either end, so that the center stays where it was
    return image.crop((x, y, width - x, height - y)) if x or y else image


def _check_types(values: object) -> dict[str, Any]:
    """Return keyword arguments for `Preprocessing` from JSON values, after checking their types.

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
    return dict(values) | {name: _three_numbers(name, values[name]) for name in ("mean", "std")}


def _three_numbers(name: str, values: object) -> tuple[float, ...]:
    """Return the field `name` as three floats.

    Raises:
        ValueError: it is not a list of three numbers.
    """
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise ValueError(f"{name} must be three numbers")
    if not all(type(value) in (int, float) for value in values):
        raise ValueError(f"{name} must be three numbers")
    return tuple(float(value) for value in values)
