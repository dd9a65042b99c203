"""The forecast of a plan's time on this machine, from the measured costs; needs no torch."""

from dataclasses import dataclass

from tlcli.planning.evidence import Timing
from tlcli.planning.plan import Plan
from tlcli.planning.training_config import MAX_RANGE_TEST_STEPS

SOLVE_SECONDS = 2.6e-4
"""Seconds per image view and class that solving a head takes, with its cross-validation and the
logits of left-out images: measured on one core, 2,000 views of 1,280 features in 5 classes."""
UPDATE_SECONDS = 8e-9
"""Seconds per trained parameter and step, for its gradient and the optimizer's update."""
SAVE_SECONDS = 3.0
"""Seconds for computing the metrics and writing the run's files."""


@dataclass(frozen=True)
class Workload:
    """The amount of work that a plan is carried out on.

    Attributes:
        n_train, n_val, n_classes: the images and classes of the folder.
        views: cached views per training image.
        cached: views that are in the cache already.
        parameters: the number of trained parameters.
        mixed: the images are mixed, so that frozen features are computed again in each epoch.
    """

    n_train: int
    n_val: int
    n_classes: int
    views: int
    cached: int = 0
    parameters: int = 0
    mixed: bool = False


def forecast(plan: Plan, timing: Timing, work: Workload) -> float:
    """Return the seconds that `plan` will take from here on, with all its epochs."""
    config = plan.training
    frozen = timing.share.get(plan.cut, 0.0)
    # A head that is trained first reads the last features, whatever is trained after it.
    cached_share = 1.0 if plan.cut == "none" and config.head_first else frozen
    recomputed = work.mixed and not config.head_first
    missing = 0 if recomputed else max(work.n_train * work.views + work.n_val - work.cached, 0)
    seconds = SAVE_SECONDS + missing * timing.image * cached_share
    if config.solves_head or config.head_first:
        seconds += SOLVE_SECONDS * work.n_train * work.views * work.n_classes
    if not config.solves_head:
        trained = 1.0 - frozen
        batches = -(-work.n_train // config.batch_size)
        epoch = work.n_train * timing.step_image * trained + batches * timing.step * trained
        epoch += batches * UPDATE_SECONDS * work.parameters
        epoch += (work.n_train + work.n_val) * timing.image * frozen if recomputed else 0.0
        seconds += epoch * MAX_RANGE_TEST_STEPS / batches if config.find_lr else 0.0
        seconds += config.epochs * (epoch + work.n_val * timing.image * trained)
    return seconds
