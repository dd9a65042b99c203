"""The learning rate range test: how the loss moves as the rate grows (Smith 2015)."""

import math
from collections.abc import Callable, Iterator
from itertools import count

from torch import Tensor
from torch.optim import Optimizer

from tlcli.errors import UserError
from tlcli.planning.training_config import MAX_RANGE_TEST_STEPS
from tlcli.reporter import Reporter

Curve = list[tuple[float, float]]
"""Learning rates and the smoothed loss at each."""

MIN_LR, MAX_LR = 1e-6, 10.0
SMOOTHING = 0.9
"""Weight of the earlier losses in the running mean (its start is corrected for)."""
EXPLODED = 4.0
"""Multiple of its lowest value at which the loss ends the test."""
MIN_FALL = 0.1
"""Share by which the loss must fall for its slope to mean anything."""
MIN_POINTS = 10
"""Points below which a curve has no pick."""


def find_lr(
    step: Callable[[Tensor, Tensor], float],
    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
    optimizer: Optimizer,
    reporter: Reporter,
) -> tuple[float, Curve]:
    """Find the learning rate for the newest layers; return it with the curve it was read from.

    Args:
        step: trains on a batch and returns the loss before it.
        batches: yields the batches of a pass over the images, by its number.
        optimizer: its groups keep the ratios of their rates; the last group's rate is found.

    Raises:
        UserError: no rate can be read from the curve.
    """
    groups = optimizer.param_groups
    ratios = [group["initial_lr"] / groups[-1]["initial_lr"] for group in groups]

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        for number in count():
            yield from batches(number)

    source, taken = endless(), count(1)

    def loss_at(lr: float) -> float:
        for group, ratio in zip(groups, ratios, strict=True):
            group["lr"] = lr * ratio
        loss = step(*next(source))
        reporter.progress("learning rate", next(taken), MAX_RANGE_TEST_STEPS, "steps", loss=loss)
        return loss

    curve = range_test(loss_at)
    lr = pick_lr(curve)
    if lr is None:
        raise UserError(
            "--lr find: the loss exploded or was not a number before a rate could be found",
            "give --lr a number",
        )
    reporter.progress("learning rate", MAX_RANGE_TEST_STEPS, MAX_RANGE_TEST_STEPS, "steps")
    reporter.note(f"--lr find: {lr:.1e}, after {len(curve)} steps with growing rates")
    return lr, curve


def range_test(loss_at: Callable[[float], float]) -> Curve:
    """Take steps with growing learning rates until the loss explodes.

    Args:
        loss_at: takes one step with a learning rate and returns the loss before it.
    """
    curve: Curve = []
    mean, lowest = 0.0, math.inf
    for number in range(MAX_RANGE_TEST_STEPS):
        lr = MIN_LR * (MAX_LR / MIN_LR) ** (number / (MAX_RANGE_TEST_STEPS - 1))
        loss = loss_at(lr)
        if not math.isfinite(loss):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smooth = mean / (1 - SMOOTHING ** (number + 1))
        lowest = min(lowest, smooth)
        if smooth > EXPLODED * lowest:
            break
        curve.append((lr, smooth))
    return curve


def pick_lr(curve: Curve) -> float | None:
    """Return the rate halfway down the longest fall of the loss (fastai's "valley").

    Where the loss hardly falls, as with a head that was solved before, the slope says nothing:
    then it is a tenth of the last rate at which the loss has not risen either.

    Returns:
        None for a curve of fewer than `MIN_POINTS` points.
    """
    if len(curve) < MIN_POINTS:
        return None
    losses = [loss for _, loss in curve]
    start, end = _longest_fall(losses)
    if losses[start] - losses[end] < MIN_FALL * losses[start]:
        turn = max(i for i, loss in enumerate(losses) if loss <= (1 + MIN_FALL) * losses[0])
        return curve[turn][0] / 10
    return curve[start + (end - start) // 2][0]


def _longest_fall(losses: list[float]) -> tuple[int, int]:
    """Return the first and last index of the longest falling (not adjacent) subsequence."""
    length, begin = [1] * len(losses), list(range(len(losses)))
    for i, loss in enumerate(losses):
        for j in range(i):
            if loss < losses[j] and length[j] + 1 > length[i]:
                length[i], begin[i] = length[j] + 1, begin[j]
    end = max(range(len(losses)), key=lambda i: length[i])
    return begin[end], end
