"""How long a plan will take on this machine, from what the measuring pass took. No torch."""

from tlcli.planning.evidence import Timing
from tlcli.planning.plan import Plan
from tlcli.planning.training_config import TRIES

SOLVE = 2.6e-4
"""Seconds for each image view and class that solving a head takes, its cross-validation and its
left-out answers included: measured on one core, 2,000 views of 1,280 codes in 5 classes."""
UPDATE = 8e-9
"""Seconds for each trained parameter and step: its gradient and what the optimizer does with it."""
SAVE = 3.0
"""Seconds for measuring the result and writing the run's files."""


def forecast(
    plan: Plan,
    timing: Timing,
    *,
    n_train: int,
    n_val: int,
    views: int,
    cached: int,
    parameters: int,
    n_classes: int,
    mixed: bool = False,
) -> float:
    """Seconds that `plan` will take from here on, all its epochs counted.

    Args:
        views: remembered views an image.
        cached: views that are in the cache already.
        parameters: that are trained.
        mixed: the images are mixed, so that what is frozen is computed again each epoch.
    """
    share = timing.share.get(plan.cut, 0.0)
    steps = plan.training
    # The head first is one on the last codes, whatever is trained behind it.
    remembered = 1.0 if plan.cut == "none" and steps.head_first else share
    again = mixed and not steps.head_first
    needed = 0 if again else max(n_train * views + n_val - cached, 0)
    seconds = SAVE + needed * timing.image * remembered
    if steps.optimizer == "lbfgs" or steps.head_first:
        seconds += SOLVE * n_train * views * n_classes
    if steps.optimizer != "lbfgs":
        behind = 1.0 - share
        batches = -(-n_train // steps.batch_size)
        epoch = n_train * timing.step_image * behind + batches * timing.step * behind
        epoch += batches * UPDATE * parameters
        epoch += (n_train + n_val) * timing.image * share if again else 0.0
        seconds += epoch * TRIES / batches if steps.find_lr else 0.0
        seconds += steps.epochs * (epoch + n_val * timing.image * behind)
    return seconds
