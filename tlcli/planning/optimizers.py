"""Optimizers and learning-rate schedules by name, as data that needs no torch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tlcli.errors import choice


@dataclass(frozen=True)
class OptimizerSpec:
    """One optimizer that a training can be configured with.

    Attributes:
        step_class: the dotted path of its class, which takes steps over batches: torch's or one of
            tlcli's own. None for a solver that fits a linear head in one go.
        phrase: its name for people, formatted with the fields of `TrainingConfig`.
        options: the fields of `TrainingConfig` that this optimizer takes and not all others do, by
            the names of its class.
        learning_rates: the learning rates of `TRAINING_PRESETS` that it replaces, by preset.
        has_fused: whether its class takes `fused`.
    """

    step_class: str | None
    phrase: str
    options: tuple[str, ...] = ()
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    has_fused: bool = False

    @property
    def takes_steps(self) -> bool:
        """Whether it takes steps over batches, and does not solve a linear head in one go."""
        return self.step_class is not None


OPTIMIZERS: Mapping[str, OptimizerSpec] = {
    "lbfgs": OptimizerSpec(None, "L-BFGS on the head, its L2 penalty chosen by cross-validation"),
    "sgd": OptimizerSpec(
        "torch.optim.SGD",
        "SGD with momentum {momentum:g}",
        options=("momentum",),
        learning_rates={"head": 0.01, "part": 1e-3, "all": 5e-3, "reinit": 1e-2, "scratch": 1e-2},
        has_fused=True,
    ),
    "adamw": OptimizerSpec("torch.optim.AdamW", "AdamW", has_fused=True),
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
