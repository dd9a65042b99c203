"""How what lies behind the cut is trained, as data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingConfig:
    """How the part behind the cut is trained.

    Attributes:
        optimizer: "lbfgs" (the convex optimum of a linear head), "sgd" or "adamw".
        lr: learning rate per step of the newest layers.
        momentum: SGD's; the other optimizers ignore it.
        weight_decay: on weights of two or more dimensions (not on biases and norms).
        epochs: passes over the training images.
        batch_size: images a step.
        accumulate: batches whose gradients are added up before a step.
        find_lr: begin with a learning rate range test (Smith 2015), whose pick replaces `lr`.
        lr_schedule: "cosine" or "linear" (to zero), "one-cycle" (up and down to zero in halves of
            a cosine, Smith and Topin 2018) or "constant".
        warmup: epochs in which the learning rate rises to its full value.
        patience: epochs without a better validation metric before it stops; 0: never.
        metric: by which the best epoch is told: one of `METRICS`.
        layer_decay: each earlier stage takes this times its successor's learning rate.
        head_first: solve the head alone on frozen codes before everything is trained
            (linear probing then fine-tuning, Kumar et al. 2022).
        unfreeze: "all" stages behind the cut at once, or "gradual": the head first, earlier stages
            epoch by epoch (Howard and Ruder 2018); see `unfrozen`.
        batchnorm: statistics of the trained stages: "adapt" to the batches, or stay "frozen" as
            the weights came with them (what they scale and shift by is trained either way).
        average: weights that are validated and kept: "none" (those of the last step), "ema" (a
            mean that forgets over an epoch) or "swa" (the equal mean of the last quarter's steps,
            Izmailov et al. 2018).
        label_smoothing: share of each label that goes to all classes alike (Szegedy et al. 2016).
        dropout: share of the codes before the final layer that each step leaves out; None: as the
            backbone has it.
        balance: of unequal classes: "none", "weights" in the loss, or "sampler" (an epoch draws as
            many images of each class).
        init: of new layers: "default" (the layer's own), "uniform" (Glorot and Bengio 2010)
            or "normal" (mean 0, deviation 0.01, Krizhevsky et al. 2012).
        augment: augmentation of training images, as `presets.parse_augment` reads it.
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


FIND = "find"
"""As a learning rate: measure one."""
TRIES = 100
"""Steps that this takes at most."""
OPTIMIZERS = ("lbfgs", "sgd", "adamw")
LR_SCHEDULES = ("cosine", "linear", "one-cycle", "constant")
METRICS = ("top1", "loss", "balanced_accuracy", "macro_f1")
INITS = ("default", "uniform", "normal")
CHOICES: Mapping[str, tuple[str, ...]] = {
    "optimizer": OPTIMIZERS,
    "lr_schedule": LR_SCHEDULES,
    "metric": METRICS,
    "unfreeze": ("all", "gradual"),
    "batchnorm": ("adapt", "frozen"),
    "average": ("none", "ema", "swa"),
    "balance": ("none", "weights", "sampler"),
    "init": INITS,
}
"""The values of each field that is a name."""


def unfrozen(config: TrainingConfig, epoch: int, stages: int) -> int:
    """How many of the trained stages, counted from the head, learn in an epoch (from 1 on).

    Gradually it is one more each epoch; several where there are fewer epochs than stages, so that
    the last epoch trains all.
    """
    if config.unfreeze == "all":
        return stages
    return min(stages, max(epoch, math.ceil(epoch * stages / config.epochs)))
