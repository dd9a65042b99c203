"""TODO"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from tlcli.errors import UsageError, choice
from tlcli.planning.training_config import CHOICES, FIND, TrainingConfig
from tlcli.planning.training_presets import SIZES, TRAINING_PRESETS, WARMUPS

# What a step-wise optimizer reads and L-BFGS, which takes no steps over batches, does not.
STEPWISE = frozenset(f.name for f in fields(TrainingConfig)) - {
    "augment",
    "optimizer",
    "head_first",
    "metric",
    "balance",
}


ALL_STAGES = frozenset({"unfreeze", "batchnorm", "layer_decay"})
"""What says something of several stages."""


def choose_training(
    recipe: str,
    asked: Mapping[str, Any],
    *,
    solvable: bool,
    mixing: str = "",
    n_train: int = 1000,
) -> tuple[TrainingConfig, list[str]]:
    """A schedule of `TRAINING_PRESETS` with what was set by hand.

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
    config, sgd_lr = TRAINING_PRESETS[recipe]
    sizes = [values for least, values in SIZES[recipe] if n_train >= least]
    config = replace(config, **(sizes[-1] if sizes else {}))
    if optimizer == "sgd":
        config = replace(config, lr=sgd_lr)
    if "momentum" in asked and optimizer != "sgd":
        raise UsageError("--momentum is SGD's", "add --optimizer sgd")
    if asked.get("lr") == FIND:
        asked = {k: v for k, v in asked.items() if k != "lr"} | {"find_lr": True}
    config = replace(config, **asked)
    if "warmup" not in asked and config.lr_schedule in WARMUPS:
        warmup = WARMUPS[config.lr_schedule] * config.epochs
        config = replace(config, warmup=round(warmup, 3))
    if config.warmup > config.epochs:
        raise UsageError(
            f"--warmup {config.warmup:g} is longer than the {config.epochs} epochs",
            "the learning rate would never be reached",
        )
    return config, notes


def with_more_epochs(config: TrainingConfig, epochs: int) -> TrainingConfig:
    """The schedule over so many epochs, with a warm-up that was a share of them growing along."""
    share = WARMUPS.get(config.lr_schedule)
    derived = share is not None and config.warmup == round(share * config.epochs, 3)
    warmup = round(share * epochs, 3) if derived and share is not None else config.warmup
    return replace(config, epochs=epochs, warmup=warmup)
