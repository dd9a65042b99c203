"""The configuration of a training: how the stages behind the cut are trained, as data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tlcli.planning.optimizers import LR_SCHEDULES, OPTIMIZERS, find_optimizer


@dataclass(frozen=True)
class TrainingConfig:
    """How the stages behind the cut are trained.

    Attributes:
        optimizer: one of `OPTIMIZERS`; "lbfgs" solves a linear head, the others take steps.
        lr: the learning rate per step of the newest layers.
        momentum: the momentum of SGD; the other optimizers ignore it.
        weight_decay: the decay of weights of two or more dimensions; biases and norms have none.
        epochs: passes over the training images.
        batch_size: images per batch.
        accumulate: batches whose gradients are added up for each step.
        find_lr: begin with a learning rate range test (Smith 2015), whose pick replaces `lr`.
        lr_schedule: "cosine" or "linear" (to zero), "one-cycle" (up and down to zero in halves of
            a cosine, Smith and Topin 2018) or "constant".
        warmup: epochs in which the learning rate rises to its full value.
        patience: epochs without a better validation metric before training stops; 0: never.
        metric: the validation metric that selects the best epoch, one of `METRICS`.
        layer_decay: the factor on the learning rate from each stage to the stage before it.
        head_first: train the head alone on frozen features before everything is trained
            (linear probing then fine-tuning, Kumar et al. 2022).
        unfreeze: "all" stages behind the cut at once, or "gradual": the head first, earlier stages
            epoch by epoch (Howard and Ruder 2018); see `count_unfrozen`.
        batchnorm: the statistics of the trained stages "adapt" to the batches, or stay "frozen" as
            the weights came with them; the affine parameters are trained either way.
        average: the weights that are validated and kept: "none" (those of the last step), "ema"
            (an exponential moving average over about an epoch) or "swa" (the equal mean of the
            last quarter's steps, Izmailov et al. 2018).
        label_smoothing: the share of each label that is spread over all classes (Szegedy et al.
            2016).
        dropout: the share of the features before the final layer that each step leaves out; None:
            as in the backbone.
        balance: the compensation for unequal classes: "none", "weights" in the loss, or a
            "sampler" that draws as many images of each class in an epoch.
        init: the initialization of new layers: "default" (the layer's own), "uniform" (Glorot and
            Bengio 2010) or "normal" (mean 0, deviation 0.01, Krizhevsky et al. 2012).
        augment: the augmentation of training images, as `presets.parse_augment` reads it.
    """

    optimizer: str = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    epochs: int = 30
    batch_size: int = 32
    accumulate: int = 1
    find_lr: bool = False
    lr_schedule: str = "cosine"
    warmup: float = 0.5
    patience: int = 0
    metric: str = "top1"
    layer_decay: float = 1.0
    head_first: bool = False
    unfreeze: str = "all"
    batchnorm: str = "adapt"
    average: str = "none"
    label_smoothing: float = 0.0
    dropout: float | None = None
    balance: str = "none"
    init: str = "default"
    augment: str = "light"

    @property
    def solves_head(self) -> bool:
        """Whether a linear head is solved in one go, without steps over batches."""
        return not find_optimizer(self.optimizer).takes_steps


FIND_LR = "find"
"""The learning rate that stands for "measure one"."""
MAX_RANGE_TEST_STEPS = 100
"""Steps of a learning rate range test."""
METRICS = ("top1", "loss", "balanced_accuracy", "macro_f1")
CHOICES: Mapping[str, tuple[str, ...]] = {
    "optimizer": tuple(OPTIMIZERS),
    "lr_schedule": tuple(LR_SCHEDULES),
    "metric": METRICS,
    "unfreeze": ("all", "gradual"),
    "batchnorm": ("adapt", "frozen"),
    "average": ("none", "ema", "swa"),
    "balance": ("none", "weights", "sampler"),
    "init": ("default", "uniform", "normal"),
}
"""The values of each field that is a name."""


def count_unfrozen(config: TrainingConfig, epoch: int, stages: int) -> int:
    """Return how many of the trained stages, counted from the head, learn in `epoch` (from 1 on).

    Gradual unfreezing adds one stage per epoch, or several where there are fewer epochs than
    stages, so that the last epoch trains all of them.
    """
    if config.unfreeze == "all":
        return stages
    return min(stages, max(epoch, math.ceil(epoch * stages / config.epochs)))
