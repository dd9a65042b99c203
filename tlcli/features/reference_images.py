"""The reference images that forward passes of different precision are compared on."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from tlcli.data.dataset import Sample
from tlcli.data.decode import Unreadable, decode
from tlcli.data.preprocessing import Preprocessing

N_REFERENCE_IMAGES = 4
"""Images that forward passes are compared on."""


def choose_reference_samples(samples: Iterable[Sample]) -> list[Sample]:
    """Choose the `N_REFERENCE_IMAGES` readable images with the lowest digests."""
    chosen: list[Sample] = []
    for sample in sorted(samples, key=lambda sample: sample.digest):
        with suppress(Unreadable):
            decode(sample.path, min_side=1)
            chosen.append(sample)
        if len(chosen) == N_REFERENCE_IMAGES:
            break
    return chosen


def load_reference_images(samples: Sequence[Sample], preprocessing: Preprocessing) -> Tensor:
    """Load the images that can still be read, uint8 [n, 3, h, w]."""
    images: list[Tensor] = []
    for sample in samples:
        with suppress(Unreadable):
            images.append(preprocessing.to_pixels(decode(sample.path, preprocessing.min_side)))
    side = preprocessing.crop
    return torch.stack(images) if images else torch.empty(0, 3, side, side, dtype=torch.uint8)
