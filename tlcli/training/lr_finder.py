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

LOWEST, HIGHEST = 1e-6, 10.0
SMOOTHING = 0.9
"""Of the loss: each batch's has a tenth of the say (the start is corrected for)."""
EXPLODED = 4.0
"""The test ends where the loss is this times its lowest."""
GAIN = 0.1
"""Share by which the loss must fall for its slope to mean anything."""


def find_lr(
    step: Callable[[Tensor, Tensor], float],
    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
    optimizer: Optimizer,
    reporter: Reporter,
) -> tuple[float, Curve]:
    """The learning rate for the newest layers, and the curve that it was read from.

    Args:
        step: trains on a batch and returns the loss before it.
        batches: of a pass over the images, by its number.
        optimizer: its groups keep their rates' ratios; the last one's is the one looked for.

    Raises:
        UserError: there is nothing to be read from the curve.
    """
    groups = optimizer.param_groups
    shares = [group["initial_lr"] / groups[-1]["initial_lr"] for group in groups]

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        for number in count():
            yield from batches(number)

    source, taken = endless(), count(1)

    def loss_at(lr: float) -> float:
        for group, share in zip(groups, shares, strict=True):
            group["lr"] = lr * share
        loss = step(*next(source))
        reporter.progress("learning rate", next(taken), MAX_RANGE_TEST_STEPS, "steps", loss=loss)
        return loss

    curve = range_test(loss_at)
    found = pick(curve)
    if found is None:
        raise UserError(
            "--lr find: the loss exploded or was no number before a rate could be told",
            "give --lr a number",
        )
    reporter.progress("learning rate", MAX_RANGE_TEST_STEPS, MAX_RANGE_TEST_STEPS, "steps")
    reporter.note(f"--lr find: {found:.1e}, after {len(curve)} steps with growing rates")
    return found, curve


def range_test(loss_at: Callable[[float], float]) -> Curve:
    """Take steps with growing learning rates until the loss explodes.

    Args:
        loss_at: takes one step with a learning rate and returns the loss before it.
    """
    curve: Curve = []
    mean, lowest = 0.0, math.inf
    for number in range(MAX_RANGE_TEST_STEPS):
        lr = LOWEST * (HIGHEST / LOWEST) ** (number / (MAX_RANGE_TEST_STEPS - 1))
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


def pick(curve: Curve) -> float | None:
    """The rate halfway down the longest fall of the loss (fastai's "valley").

    Where the loss hardly falls, as behind a head that was solved before, the slope says nothing:
    then a tenth of the last rate at which it has not risen either. None for a curve of fewer than
    10 points.
    """
    if len(curve) < 10:
        return None
    losses = [loss for _, loss in curve]
    start, end = _longest_fall(losses)
    if losses[start] - losses[end] < GAIN * losses[start]:
        turn = max(i for i, loss in enumerate(losses) if loss <= (1 + GAIN) * losses[0])
        return curve[turn][0] / 10
    return curve[start + (end - start) // 2][0]


def _longest_fall(losses: list[float]) -> tuple[int, int]:
    """First and last place of the longest falling (not adjacent) subsequence."""
    length, begin = [1] * len(losses), list(range(len(losses)))
    for i, loss in enumerate(losses):
        for j in range(i):
            if loss < losses[j] and length[j] + 1 > length[i]:
                length[i], begin[i] = length[j] + 1, begin[j]
    end = max(range(len(losses)), key=lambda i: length[i])
    return begin[end], end
