"""How what lies behind the cut is trained, as data."""

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
        lr_schedule: "cosine" (to zero, after a warm-up of half an epoch) or "constant".
        patience: epochs without a better validation accuracy before it stops; 0: never.
        layer_decay: each earlier stage takes this times its successor's learning rate.
        head_first: solve the head alone on frozen codes before everything is trained
            (linear probing then fine-tuning, Kumar et al. 2022).
        batchnorm: statistics of the trained stages: "adapt" to the batches, or stay "frozen" as
            the weights came with them (what they scale and shift by is trained either way).
        init: of new layers: "default" (the layer's own), "uniform" (Glorot and Bengio 2010)
            or "normal" (mean 0, deviation 0.01, Krizhevsky et al. 2012).
    """

    optimizer: str = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    epochs: int = 30
    batch_size: int = 32
    accumulate: int = 1
    lr_schedule: str = "cosine"
    patience: int = 0
    layer_decay: float = 1.0
    head_first: bool = False
    batchnorm: str = "adapt"
    init: str = "default"


OPTIMIZERS = ("lbfgs", "sgd", "adamw")
LR_SCHEDULES = ("cosine", "constant")
INITS = ("default", "uniform", "normal")

# What a step-wise optimizer reads and L-BFGS, which takes no steps over batches, does not.
STEPWISE = frozenset(f.name for f in fields(Schedule)) - {"optimizer", "head_first"}

# A name, the schedule with AdamW, and the learning rate that SGD with momentum takes instead.
SCHEDULES: Mapping[str, tuple[Schedule, float]] = {
    "solve": (Schedule("lbfgs"), 0.01),
    "head": (Schedule(patience=8), 0.01),
    "part": (Schedule(lr=1e-4, epochs=12, patience=5), 1e-3),
    # A head solved first fits the statistics that the weights came with, so those stay.
    "all": (
        Schedule(
            lr=3e-4, epochs=8, patience=4, layer_decay=0.8, head_first=True, batchnorm="frozen"
        ),
        5e-3,
    ),
    "reinit": (Schedule(lr=1e-3, epochs=15, patience=5, layer_decay=0.9), 1e-2),
    "scratch": (Schedule(lr=1e-3, epochs=30, patience=10), 1e-2),
}


def choose_schedule(
    recipe: str, asked: Mapping[str, Any], *, solvable: bool, mixing: str = ""
) -> tuple[Schedule, list[str]]:
    """A schedule of `SCHEDULES` with what was set by hand.

    Args:
        asked: values by field name; None is "as the recipe says".
        solvable: what is trained is one linear layer.
        mixing: the option that asks for mixed images, which need steps too; "" for none.

    Returns:
        The schedule, and what a person should know of how it came to be.

    Raises:
        UsageError: unknown names, or options that contradict each other.
    """
    asked = {k: v for k, v in asked.items() if v is not None}
    optimizer = asked.get("optimizer")
    for flag, known in (("optimizer", OPTIMIZERS), ("lr_schedule", LR_SCHEDULES), ("init", INITS)):
        if flag in asked:
            choice(f"--{flag.replace('_', '-')}", asked[flag], known)
    stepwise = sorted(STEPWISE & asked.keys())
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
    if optimizer == "sgd":
        schedule = replace(schedule, lr=sgd_lr)
    if "momentum" in asked and optimizer != "sgd":
        raise UsageError("--momentum is SGD's", "add --optimizer sgd")
    return replace(schedule, **asked), notes
