"""The number of cached views per image, and their cost."""

from tlcli.data.augmentation.mixup import Mixing
from tlcli.data.augmentation.spec import Augmentation
from tlcli.data.dataset import Dataset
from tlcli.errors import UsageError
from tlcli.features.views import Views
from tlcli.planning.evidence import Timing
from tlcli.planning.measure import Measurement
from tlcli.planning.plan import Plan

DEFAULT_VIEWS = 2
"""Cached views per image with augmentation: the plain one and an augmented one."""
MAX_VIEW_SECONDS = 600.0
"""Seconds that the pass over the augmented views may take; if it took longer, there are none."""


def caches_features(plan: Plan, mixing: Mixing | None = None) -> bool:
    """Return whether any features of the training images are computed once and cached."""
    return plan.training.head_first or (plan.cut != "none" and mixing is None)


def cached_views(plan: Plan, measured: Measurement, dataset: Dataset, views: Views) -> int:
    """Return how many of the views that `plan` trains and validates on are already cached."""
    head_first = plan.cut == "none" and plan.training.head_first
    sweep = measured.evidence.sweep
    cut = sweep[-1].name if head_first and sweep else plan.cut
    tables = measured.tables
    table = tables.get(cut) or (tables.get(f"{cut}+pool") if plan.dropped else None)
    if table is None:
        return 0
    wanted = [
        *(views.view_id(s, view) for s in dataset.train for view in range(views.n)),
        *(views.view_id(s, 0) for s in dataset.val),
    ]
    return sum(row in table for row in wanted)


def view_seconds(plan: Plan, timing: Timing | None, n_train: int) -> float:
    """Return the seconds of one view of all training images up to the cut; 0 if unknown."""
    if timing is None or not caches_features(plan):
        return 0.0
    return n_train * timing.image * timing.share.get(plan.cut, 1.0)


def choose_views(
    requested: int | None,
    plan: Plan,
    augmentation: Augmentation | None,
    mixing: Mixing | None = None,
    seconds: float = 0.0,
) -> int:
    """Choose how many views per image are cached: a plain one, and augmented ones.

    Args:
        requested: the number set by hand; None: `DEFAULT_VIEWS`, or one if another takes too long.
        seconds: the forecast for another view of all training images.

    Raises:
        UsageError: views were requested, but nothing is cached or no view differs.
    """
    if requested is None:
        return DEFAULT_VIEWS if augmentation and seconds <= MAX_VIEW_SECONDS else 1
    if not caches_features(plan, mixing):
        reason = "mixed images are not cached" if mixing else "this plan freezes nothing"
        raise UsageError(
            f"--views sets the number of cached views, but {reason}",
            "leave it out; every epoch augments each image anew",
        )
    if requested > 1 and augmentation is None:
        raise UsageError(f"--views {requested} without --augment would repeat the same view")
    return requested
