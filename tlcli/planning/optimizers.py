"""Optimizers and learning-rate schedules by name, as data that needs no torch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tlcli.errors import choice


@dataclass(frozen=True)
class OptimizerSpec:
    """One optimizer that a training can be configured with.

    Attributes:
        torch_class: the name of its class in `torch.optim`, which takes steps over batches; None
            for a solver that fits a linear head in one go.
        phrase: its name for people, formatted with the fields of `TrainingConfig`.
        options: the fields of `TrainingConfig` that this optimizer alone takes, by the names of
            its class.
    """

    torch_class: str | None
    phrase: str
    options: tuple[str, ...] = ()


OPTIMIZERS: Mapping[str, OptimizerSpec] = {
    "lbfgs": OptimizerSpec(None, "L-BFGS on the head, its L2 penalty chosen by cross-validation"),
    "sgd": OptimizerSpec("SGD", "SGD with momentum {momentum:g}", ("momentum",)),
    "adamw": OptimizerSpec("AdamW", "AdamW"),
}


def find_optimizer(name: str) -> OptimizerSpec:
    """Return the entry of `OPTIMIZERS` with this name.

    Raises:
        UsageError: there is none.
    """
    return OPTIMIZERS[choice("--optimizer", name, OPTIMIZERS)]


@dataclass(frozen=True)
class LrSchedule:
    """One way in which the learning rate moves, as a multiple of the full rate.

    Attributes:
        rise: the multiple by the share of the warm-up that is done.
        fall: the multiple by the share of the steps after the warm-up that is done.
        warmup: the share of all epochs that the warm-up takes unless it is set by hand; None:
            `TrainingConfig.warmup` epochs.
    """

    rise: Callable[[float], float]
    fall: Callable[[float], float]
    warmup: float | None = None


def _half_cosine(share: float) -> float:
    """Fall from 1 to 0 in half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * share))


LR_SCHEDULES: Mapping[str, LrSchedule] = {
    "cosine": LrSchedule(float, _half_cosine),
    "linear": LrSchedule(float, lambda share: 1 - share),
    "one-cycle": LrSchedule(
        lambda share: 1 / 25 + 24 / 25 * _half_cosine(1 - share), _half_cosine, warmup=0.3
    ),
    "constant": LrSchedule(float, lambda _: 1.0, warmup=0.0),
}


def find_lr_schedule(name: str) -> LrSchedule:
    """Return the entry of `LR_SCHEDULES` with this name.

    Raises:
        UsageError: there is none.
    """
    return LR_SCHEDULES[choice("--lr-schedule", name, LR_SCHEDULES)]
