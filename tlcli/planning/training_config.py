"""How what lies behind the cut is trained, as data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tlcli.errors import UsageError, choice


@dataclass(frozen=True)
class Schedule:
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
        augment: how training images are varied, as for `tlcli.data.augmentation.presets.parse`.
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

# What a step-wise optimizer reads and L-BFGS, which takes no steps over batches, does not.
STEPWISE = frozenset(f.name for f in fields(Schedule)) - {
    "augment",
    "optimizer",
    "head_first",
    "metric",
    "balance",
}

ALL_STAGES = frozenset({"unfreeze", "batchnorm", "layer_decay"})
"""What says something of several stages."""

# A name, the schedule with AdamW, and the learning rate that SGD with momentum takes instead.
SCHEDULES: Mapping[str, tuple[Schedule, float]] = {
    "solve": (Schedule("lbfgs"), 0.01),
    "head": (Schedule(patience=8), 0.01),
    "part": (Schedule(lr=1e-4, epochs=12, patience=5), 1e-3),
    # A head solved first fits the statistics that the weights came with, so those stay. The images
    # are cropped about as far as those were that the weights were trained on.
    "all": (
        Schedule(
            lr=3e-4,
            epochs=8,
            patience=4,
            layer_decay=0.8,
            head_first=True,
            batchnorm="frozen",
            augment="flip,crop=0.15",
        ),
        5e-3,
    ),
    # Images of another kind may not be mirrored: many are of writing, or of something that has a
    # left and a right.
    "reinit": (
        Schedule(lr=1e-3, epochs=15, patience=5, layer_decay=0.9, augment="crop=0.7,rotate=10"),
        1e-2,
    ),
    "scratch": (Schedule(lr=1e-3, epochs=30, patience=10), 1e-2),
}

FEW: Mapping[str, Any] = {"batch_size": 16}
"""For fewer than 500 images: an epoch should hold some tens of steps."""
# From so many training images on (the last that applies), what differs from the above: each pass
# over many images takes more steps, so fewer passes come to as much training.
SIZES: Mapping[str, tuple[tuple[int, Mapping[str, Any]], ...]] = {
    "solve": (),
    "head": ((0, FEW), (500, {}), (50_000, {"epochs": 10, "patience": 3, "batch_size": 128})),
    "part": ((0, FEW), (500, {}), (20_000, {"epochs": 8}), (100_000, {"epochs": 5})),
    "all": ((0, FEW), (500, {}), (20_000, {"epochs": 6}), (100_000, {"epochs": 4})),
    "reinit": ((0, FEW), (500, {}), (20_000, {"epochs": 12}), (100_000, {"epochs": 8})),
    "scratch": ((0, FEW), (500, {}), (200_000, {"epochs": 20})),
}
WARMUPS: Mapping[str, float] = {"one-cycle": 0.3, "constant": 0.0}
"""Share of all epochs in which these schedules' rate rises; the others have `Schedule.warmup`."""


def choose_schedule(
    recipe: str,
    asked: Mapping[str, Any],
    *,
    solvable: bool,
    mixing: str = "",
    n_train: int = 1000,
) -> tuple[Schedule, list[str]]:
    """A schedule of `SCHEDULES` with what was set by hand.

    Args:
        asked: values by field name; None is "as the recipe says".
        solvable: what is trained is one linear layer.
        mixing: the option that asks for mixed images, which need steps too; "" for none.
        n_train: training images.

    Returns:
        The schedule, and what a person should know of how it came to be.

    Raises:
        UsageError: unknown names, or options that contradict each other.
    """
    asked = {k: v for k, v in asked.items() if v is not None}
    optimizer = asked.get("optimizer")
    for flag, known in CHOICES.items():
        if flag in asked:
            choice(f"--{flag.replace('_', '-')}", asked[flag], known)
    stepwise = sorted(STEPWISE & asked.keys())
    if asked.get("balance") == "sampler":
        stepwise.append("balance")
    if asked.get("head_first") and (solvable or recipe in ("solve", "head", "scratch")):
        only = "nothing is pretrained" if recipe == "scratch" else "only the head is trained"
        raise UsageError(f"--head-first: {only}, so there is no second phase", "leave it out")
    idle = sorted(ALL_STAGES & asked.keys()) if recipe in ("solve", "head") else []
    if idle:
        flags = ", ".join("--" + k.replace("_", "-") for k in idle)
        raise UsageError(
            f"{flags}: only the head is trained here",
            "leave it out, or train more: --freeze STAGE, --case large-similar",
        )
    asking = ["--" + k.replace("_", "-") for k in stepwise] + ([mixing] if mixing else [])
    flags = ", ".join(asking)
    if optimizer == "lbfgs":
        if not solvable:
            raise UsageError(
                "--optimizer lbfgs fits a linear head only, and this plan trains more",
                "use --optimizer adamw or sgd, or --freeze all-but-head",
            )
        if asking:
            raise UsageError(f"--optimizer lbfgs takes no {flags}", "use --optimizer adamw or sgd")
    notes: list[str] = []
    if recipe == "solve" and (asking or optimizer in ("sgd", "adamw")):
        recipe = "head"
        if optimizer is None:
            notes.append(f"{flags} asks for training in steps: AdamW instead of L-BFGS")
    schedule, sgd_lr = SCHEDULES[recipe]
    sizes = [values for least, values in SIZES[recipe] if n_train >= least]
    schedule = replace(schedule, **(sizes[-1] if sizes else {}))
    if optimizer == "sgd":
        schedule = replace(schedule, lr=sgd_lr)
    if "momentum" in asked and optimizer != "sgd":
        raise UsageError("--momentum is SGD's", "add --optimizer sgd")
    if asked.get("lr") == FIND:
        asked = {k: v for k, v in asked.items() if k != "lr"} | {"find_lr": True}
    schedule = replace(schedule, **asked)
    if "warmup" not in asked and schedule.lr_schedule in WARMUPS:
        warmup = WARMUPS[schedule.lr_schedule] * schedule.epochs
        schedule = replace(schedule, warmup=round(warmup, 3))
    if schedule.warmup > schedule.epochs:
        raise UsageError(
            f"--warmup {schedule.warmup:g} is longer than the {schedule.epochs} epochs",
            "the learning rate would never be reached",
        )
    return schedule, notes


def prolonged(schedule: Schedule, epochs: int) -> Schedule:
    """The schedule over so many epochs, with a warm-up that was a share of them growing along."""
    share = WARMUPS.get(schedule.lr_schedule)
    derived = share is not None and schedule.warmup == round(share * schedule.epochs, 3)
    warmup = round(share * epochs, 3) if derived and share is not None else schedule.warmup
    return replace(schedule, epochs=epochs, warmup=warmup)


def unfrozen(schedule: Schedule, epoch: int, stages: int) -> int:
    """How many of the trained stages, counted from the head, learn in an epoch (from 1 on).

    Gradually it is one more each epoch; several where there are fewer epochs than stages, so that
    the last epoch trains all.
    """
    if schedule.unfreeze == "all":
        return stages
    return min(stages, max(epoch, math.ceil(epoch * stages / schedule.epochs)))


def describe(schedule: Schedule) -> str:
    """How it is trained, in a line for a person."""
    balance = f"; classes balanced by {schedule.balance}" if schedule.balance != "none" else ""
    if schedule.optimizer == "lbfgs":
        return f"L-BFGS: the head's optimum, the penalty by cross-validation{balance}"
    name = {"adamw": "AdamW", "sgd": f"SGD with momentum {schedule.momentum:g}"}
    lr = "lr to be found" if schedule.find_lr else f"lr {schedule.lr:.2g}"
    if schedule.layer_decay != 1:
        lr += f" ({schedule.layer_decay:g} of it for each stage earlier)"
    batch = f"{schedule.batch_size}"
    if schedule.accumulate > 1:
        batch += f" x {schedule.accumulate}"
    rises = f" after {schedule.warmup:g} epochs of warm-up" if schedule.warmup else ""
    parts = [
        name[schedule.optimizer],
        lr,
        f"weight decay {schedule.weight_decay:g}",
        f"{schedule.epochs} epoch{'s' * (schedule.epochs > 1)} in batches of {batch}",
        schedule.lr_schedule + rises,
        f"BatchNorm {'frozen' if schedule.batchnorm == 'frozen' else 'adapts'}",
    ]
    if schedule.head_first:
        parts[0] = f"the head first, then {parts[0]}"
    if schedule.unfreeze == "gradual":
        parts.append("unfrozen from the head backwards")
    if schedule.average != "none":
        parts.append(f"weights averaged ({schedule.average})")
    if schedule.label_smoothing:
        parts.append(f"label smoothing {schedule.label_smoothing:g}")
    if schedule.dropout is not None:
        parts.append(f"dropout {schedule.dropout:g}")
    if schedule.augment != Schedule.augment:
        parts.append(f"augmented by {schedule.augment}")
    return ", ".join(parts) + balance
