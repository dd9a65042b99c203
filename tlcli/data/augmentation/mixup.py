"""Mixing the images of a batch and their labels: mixup and CutMix."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MIXING_TRANSFORMS = ("mixup", "cutmix")
"""The names of the transforms that mix images."""


@dataclass(frozen=True)
class Mixing:
    """How the images of a batch are mixed; if both are on, each batch draws one of them.

    Attributes:
        mixup: alpha of blending two images (Zhang et al. 2018); 0 is off.
        cutmix: alpha of pasting a rectangle of another image (Yun et al. 2019); 0 is off.
    """

    mixup: float = 0.0
    cutmix: float = 0.0


def make_mixing(strengths: Mapping[str, float]) -> Mixing | None:
    """Return the mixing with these strengths, of `presets.parse_augment`; None if it is off."""
    mixing = Mixing(strengths.get("mixup", 0.0), strengths.get("cutmix", 0.0))
    return mixing if mixing != Mixing() else None


def mix_batch(
    images: Tensor, labels: Tensor, n_classes: int, mixing: Mixing, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Mix each image of a batch with another one, in a proportion drawn for the batch.

    Args:
        images: uint8 [n, 3, h, w].
        labels: int64 [n].
        rng: the only source of random draws.

    Returns:
        The mixed images, uint8 [n, 3, h, w], and their soft labels, float32 [n, n_classes]: each
        class's share of the image.
    """
    enabled = ((_blend, mixing.mixup), (_paste, mixing.cutmix))
    method = rng.choice([method for method, alpha in enabled if alpha])
    alpha = mixing.mixup if method is _blend else mixing.cutmix
    others = list(range(len(labels)))
    rng.shuffle(others)
    mixed, share = method(images, images[others], rng.betavariate(alpha, alpha), rng)
    hard = F.one_hot(labels, n_classes).to(torch.float32)
    return mixed, hard.mul(share) + hard[others].mul(1 - share)


def _blend(images: Tensor, others: Tensor, share: float, _: random.Random) -> tuple[Tensor, float]:
    """Blend each image with another, and return them and the share of the first."""
    blend = torch.lerp(others.to(torch.float32), images.to(torch.float32), share)
    return blend.round_().to(torch.uint8), share


def _paste(
    images: Tensor, others: Tensor, share: float, rng: random.Random
) -> tuple[Tensor, float]:
    """Paste a rectangle of another image into each, at one random place.

    Args:
        share: wanted share of the area that is kept.

    Returns:
        The images, and the share that is kept in fact: the rectangle ends at the borders.
    """
    height, width = images.shape[2:]
    side = math.sqrt(1 - share)
    x, y = rng.randrange(width), rng.randrange(height)
    left, right = (min(width, max(0, round(x + sign * side * width / 2))) for sign in (-1, 1))
    top, bottom = (min(height, max(0, round(y + sign * side * height / 2))) for sign in (-1, 1))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return mixed, 1 - (right - left) * (bottom - top) / (width * height)
