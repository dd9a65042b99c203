"""AlexNet's colour shift: along the principal colours of the training images."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import islice

import torch
from PIL import Image

from tlcli.data.augmentation.spec import Augmentation, Colours, make_augmentation
from tlcli.data.dataset import Sample
from tlcli.data.decode import Unreadable, decode
from tlcli.runtime.threads import map_in_order

PCA_SAMPLE = 256
"""That are looked at: the covariance of three numbers needs no more."""
PCA_SIDE = 32
"""They are reduced to so many pixels a side first."""
DIGITS = 6
"""Decimals that are kept: what lies behind them differs between machines."""


def augmentation_for(values: Mapping[str, float], samples: Sequence[Sample]) -> Augmentation | None:
    """`make_augmentation`, with the principal colours of `samples` where they are needed."""
    return make_augmentation(values, principal_colors(samples) if "pca" in values else None)


def principal_colors(samples: Sequence[Sample]) -> Colours:
    """The three directions in which the colours of images differ most, strongest first.

    Each is an eigenvector of the covariance of the pixels (red, green, blue, scaled to 0..1) times
    its eigenvalue, as Krizhevsky et al. 2012 shift by. From up to `PCA_SAMPLE` images, chosen by
    content; equal images give equal numbers, whatever their order.
    """
    chosen = sorted(samples, key=lambda sample: sample.digest)
    with closing(map_in_order(_pixels, chosen)) as decoded:
        # Whether or not those that cannot be read were left out before.
        pixels = list(islice((p for p in decoded if p is not None), PCA_SAMPLE))
    if not pixels:
        return ((0.0, 0.0, 0.0),) * 3
    values, vectors = torch.linalg.eigh(torch.cat(pixels).T.cov(correction=0))
    shifts = (vectors * values.clamp_min(0)).T.flip(0)
    # A direction has no sign of its own: its largest part counts as positive.
    largest = shifts.gather(1, shifts.abs().argmax(1, keepdim=True))
    shifts = torch.where(largest < 0, -shifts, shifts)
    rows = [[round(x, DIGITS) + 0.0 for x in row] for row in shifts.tolist()]
    return tuple((red, green, blue) for red, green, blue in rows)


def _pixels(sample: Sample) -> torch.Tensor | None:
    """float64 [SIDE * SIDE, 3] in 0..1; None of an image that cannot be read."""
    try:
        small = decode(sample.path).resize((PCA_SIDE, PCA_SIDE), Image.Resampling.BOX)
    except Unreadable:
        return None
    flat = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
    return flat.view(-1, 3).to(torch.float64) / 255
