"""The views of an image that features are computed from: the plain one and augmented ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from tlcli.data.augmentation.spec import Augmentation
from tlcli.data.dataset import Sample
from tlcli.features.cache_table import row_id

PLAIN_VIEW = "plain"
"""The cache's name for an image that is not augmented."""


@dataclass(frozen=True)
class Views:
    """The views of each image: the plain image as view 0, then augmented ones.

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


class PlannedViews:
    """The views that one pass computes, planned image by image as the pass goes on.

    Attributes:
        view_seconds: The seconds that a view takes; 0 while that is not known.
        row_ids: The row ids of the views so far.
        images_done: How many images are complete after each of these views.
    """

    def __init__(
        self, samples: Sequence[Sample], views: Views, n_views: Callable[[float], int] | None
    ) -> None:
        self.samples = samples
        self.views = views
        self.n_views = n_views or (lambda _: views.n)
        self.view_seconds = 0.0
        self.row_ids: list[bytes] = []
        self.images_done: list[int] = []

    def keys(self) -> Iterator[list[str]]:
        """Yield the seeds of each image's views, as the loader takes them."""
        for number, sample in enumerate(self.samples, 1):
            n = self.n_views(self.view_seconds)
            self.row_ids += [self.views.view_id(sample, view) for view in range(n)]
            self.images_done += [number - 1] * (n - 1) + [number]
            yield [self.views.view_key(sample, view) for view in range(n)]
