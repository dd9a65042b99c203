"""Mixing images of a batch, and their labels with them: mixup and CutMix."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MIXING = ("mixup", "cutmix")
"""The transforms that mix images."""


@dataclass(frozen=True)
class Mixing:
    """How the images of a batch are mixed; where both are on, each batch takes one by chance.

    Attributes:
        mixup: alpha of images blended (Zhang et al. 2018); 0: never.
        cutmix: alpha of images with a rectangle of another (Yun et al. 2019); 0: never.
    """

    mixup: float = 0.0
    cutmix: float = 0.0


def make_mixing(values: Mapping[str, float]) -> Mixing | None:
    """Return the mixing that `values` (of `presets.parse`) ask for; None for none."""
    mixing = Mixing(values.get("mixup", 0.0), values.get("cutmix", 0.0))
    return mixing if mixing != Mixing() else None


def mix(
    images: Tensor, labels: Tensor, n_classes: int, mixing: Mixing, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Each image of a batch mixed with another one of it, by a share drawn for the batch.

    Args:
        images: uint8 [n, 3, h, w].
        labels: int64 [n].
        rng: draws which, how and how much; nothing else does.

    Returns:
        The mixed images, uint8 [n, 3, h, w], and their labels: the share of each class in the
        image, float32 [n, n_classes].
    """
    ways = [way for way, alpha in ((_blended, mixing.mixup), (_pasted, mixing.cutmix)) if alpha]
    way = rng.choice(ways)
    alpha = mixing.mixup if way is _blended else mixing.cutmix
    others = list(range(len(labels)))
    rng.shuffle(others)
    mixed, kept = way(images, images[others], rng.betavariate(alpha, alpha), rng)
    hard = F.one_hot(labels, n_classes).to(torch.float32)
    return mixed, hard.mul(kept) + hard[others].mul(1 - kept)


def _blended(
    images: Tensor, others: Tensor, share: float, _: random.Random
) -> tuple[Tensor, float]:
    blend = torch.lerp(others.to(torch.float32), images.to(torch.float32), share)
    return blend.round_().to(torch.uint8), share


def _pasted(
    images: Tensor, others: Tensor, share: float, rng: random.Random
) -> tuple[Tensor, float]:
    """A rectangle of the others of about 1 - `share` of the area; the share that really stays."""
    height, width = images.shape[2:]
    part = math.sqrt(1 - share)
    x, y = rng.randrange(width), rng.randrange(height)
    left, right = (min(width, max(0, round(x + way * part * width / 2))) for way in (-1, 1))
    top, bottom = (min(height, max(0, round(y + way * part * height / 2))) for way in (-1, 1))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return mixed, 1 - (right - left) * (bottom - top) / (width * height)
