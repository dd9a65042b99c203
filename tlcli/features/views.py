"""The views of an image that features are computed from: the plain one and augmented ones."""

from dataclasses import dataclass
from functools import cached_property

from tlcli.data.augmentation.spec import Augmentation
from tlcli.data.dataset import Sample
from tlcli.features.cache_table import row_id

PLAIN_VIEW = "plain"
"""The cache's name for an image that is not augmented."""


@dataclass(frozen=True)
class Views:
    """How many views each image has, and how they differ. View 0 is the plain image.

    Attributes:
        n: Views per image.
        augmentation: How every view but the first is varied.
        seed: Seed for the random draws of the augmentation.
    """

    n: int = 1
    augmentation: Augmentation | None = None
    seed: int = 0

    def view_id(self, sample: Sample, view: int) -> bytes:
        """Return the cache's row id of a view of an image."""
        name = f"{self._augmentation_text}:{self.seed}:{view}" if view else PLAIN_VIEW
        return row_id(sample.digest, name)

    def view_key(self, sample: Sample, view: int) -> str:
        """Return the text that seeds a view's augmentation; "" for the plain view."""
        return f"{self.seed}:{sample.digest}:{view}" if view else ""

    @cached_property  # every view's id contains it
    def _augmentation_text(self) -> str:
        return str(self.augmentation)


PLAIN_VIEW_ONLY = Views()
"""One view of each image, not augmented."""
