"""How many views an image are remembered, and what they cost."""

from tlcli.data.augmentation.mixup import Mixing
from tlcli.data.augmentation.spec import Augmentation
from tlcli.data.dataset import Dataset
from tlcli.errors import UsageError
from tlcli.features.views import Views
from tlcli.planning.evidence import Timing
from tlcli.planning.measure import Measurement
from tlcli.planning.plan import Plan

VIEWS = 2
"""Remembered views an image with augmentation: the plain one and a drawn one."""
VIEW_LIMIT = 600.0
"""Seconds that the pass over the drawn views may take; where it would be more, there are none."""


def caches_features(plan: Plan, mixing: Mixing | None = None) -> bool:
    """Whether anything of the training images is computed once and kept."""
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
    """What one view of all training images takes up to the plan's cut; 0 where it is not known."""
    if timing is None or not caches_features(plan):
        return 0.0
    return n_train * timing.image * timing.share.get(plan.cut, 1.0)


def choose_views(
    asked: int | None,
    plan: Plan,
    augmentation: Augmentation | None,
    mixing: Mixing | None = None,
    seconds: float = 0.0,
) -> int:
    """How many views an image are remembered: a plain one, the others augmented.

    Args:
        asked: by hand; None: two, or one where `seconds`, a view's forecast, are too many.

    Raises:
        UsageError: views were asked for, but nothing is remembered or nothing differs.
    """
    if asked is None:
        return VIEWS if augmentation and seconds <= VIEW_LIMIT else 1
    if not caches_features(plan, mixing):
        why = "mixed images have none" if mixing else "this plan freezes nothing"
        raise UsageError(
            f"--views is about remembered activations, and {why}",
            "leave it out; every epoch sees each image augmented anew",
        )
    if asked > 1 and augmentation is None:
        raise UsageError(f"--views {asked} without --augment would be the same view repeated")
    return asked
