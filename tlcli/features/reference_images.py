"""TODO"""

from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from tlcli.data.dataset import Sample
from tlcli.data.decode import Unreadable, decode
from tlcli.data.preprocessing import Preprocessing

N_REFERENCE_IMAGES = 4
"""Images that are compared."""


def choose_reference_samples(samples: Iterable[Sample]) -> list[Sample]:
    """The images to compare: the `N_REFERENCE_IMAGES` of lowest digest that are readable."""
    found: list[Sample] = []
    for sample in sorted(samples, key=lambda sample: sample.digest):
        with suppress(Unreadable):
            decode(sample.path, least=1)
            found.append(sample)
        if len(found) == N_REFERENCE_IMAGES:
            break
    return found


def load_reference_images(samples: Sequence[Sample], preprocessing: Preprocessing) -> Tensor:
    """uint8 [n, 3, h, w]; those that are gone meanwhile are left out."""
    found: list[Tensor] = []
    for sample in samples:
        with suppress(Unreadable):
            found.append(preprocessing.fit(decode(sample.path, preprocessing.least)))
    side = preprocessing.crop
    return torch.stack(found) if found else torch.empty(0, 3, side, side, dtype=torch.uint8)
