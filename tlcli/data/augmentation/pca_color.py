"""AlexNet's color shift: the principal colors of the training images that it shifts along."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import islice

import torch
from PIL import Image

from tlcli.data.augmentation.spec import Augmentation, PrincipalColors, make_augmentation
from tlcli.data.dataset import Sample
from tlcli.data.decode import Unreadable, decode
from tlcli.runtime.threads import map_in_order

PCA_SAMPLE = 256
"""Training images that the principal colors are computed from; more change little."""
PCA_SIDE = 32
"""Side in pixels that these images are resized to."""
PCA_DECIMALS = 6
"""Decimals that are kept of the result, because later ones differ between machines."""


def fit_augmentation(
    strengths: Mapping[str, float], samples: Sequence[Sample]
) -> Augmentation | None:
    """Return the augmentation with these strengths, with the samples' principal colors if needed.

    Args:
        strengths: as `presets.parse_augment` returns them.
        samples: the training images.
    """
    return make_augmentation(strengths, principal_colors(samples) if "pca" in strengths else None)


def principal_colors(samples: Sequence[Sample]) -> PrincipalColors:
    """Compute the three directions in which the colors of images vary most, strongest first.

    Each is an eigenvector of the covariance of the pixels (red, green, blue, scaled to 0..1),
    times its eigenvalue, as Krizhevsky et al. 2012 shift by. Up to `PCA_SAMPLE` images are chosen
    by content, so equal images give equal results in any order. Without readable images all are
    zero.
    """
    ordered = sorted(samples, key=lambda sample: sample.digest)
    with closing(map_in_order(_small_pixels, ordered)) as decoded:
        # unreadable images are skipped, so that it does not matter whether they were removed before
        pixels = list(islice((p for p in decoded if p is not None), PCA_SAMPLE))
    if not pixels:
        return ((0.0, 0.0, 0.0),) * 3
    values, vectors = torch.linalg.eigh(torch.cat(pixels).T.cov(correction=0))
    shifts = (vectors * values.clamp_min(0)).T.flip(0)
    # an eigenvector's sign is arbitrary: make its largest component positive
    largest = shifts.gather(1, shifts.abs().argmax(1, keepdim=True))
    shifts = torch.where(largest < 0, -shifts, shifts)
    rows = [[round(x, PCA_DECIMALS) + 0.0 for x in row] for row in shifts.tolist()]
    return tuple((red, green, blue) for red, green, blue in rows)


def _small_pixels(sample: Sample) -> torch.Tensor | None:
    """Return a sample's pixels as float64 [PCA_SIDE * PCA_SIDE, 3] in 0..1; None if unreadable."""
    try:
        small = decode(sample.path).resize((PCA_SIDE, PCA_SIDE), Image.Resampling.BOX)
    except Unreadable:
        return None
    flat = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
    return flat.view(-1, 3).to(torch.float64) / 255
