"""The choice of a training configuration: a preset, what the options set, and what contradicts."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from tlcli.errors import UsageError, choice
from tlcli.planning import explain
from tlcli.planning.optimizers import OPTIMIZERS, find_lr_schedule, find_optimizer
from tlcli.planning.training_config import CHOICES, FIND_LR, TrainingConfig
from tlcli.planning.training_presets import SIZE_ADJUSTMENTS, TRAINING_PRESETS

# Optimizers that take steps over batches read these; L-BFGS does not.
_STEP_OPTIONS = frozenset(f.name for f in fields(TrainingConfig)) - {
    "augment",
    "optimizer",
    "head_first",
    "metric",
    "balance",
}
_STAGE_OPTIONS = frozenset({"unfreeze", "batchnorm", "layer_decay"})
"""Options about several trained stages, which mean nothing for a head alone."""


def choose_training(
    preset: str,
    options: Mapping[str, Any],
    *,
    solvable: bool,
    mixing: str = "",
    n_train: int = 1000,
) -> tuple[TrainingConfig, list[str]]:
    """Return an entry of `TRAINING_PRESETS` with the values that were set by hand.

    Args:
        options: the values by field name; None keeps the preset's.
        solvable: the trained stages are one linear layer.
        mixing: the option that asks for mixed images, which need steps too; "" for none.
        n_train: the number of training images.

    Returns:
        The configuration, and notes on how it came about.

    Raises:
        UsageError: unknown names, or options that contradict each other.
    """
    options = {k: v for k, v in options.items() if v is not None}
    for name, known in CHOICES.items():
        if name in options:
            choice(_flag(name), options[name], known)
    _check_stages(preset, options, solvable)
    step_flags = ", ".join(_step_flags(options, mixing))
    optimizer = options.get("optimizer")
    takes_steps = optimizer is not None and find_optimizer(optimizer).takes_steps
    if optimizer is not None and not takes_steps:
        _check_solver(optimizer, step_flags, solvable)
    notes: list[str] = []
    if preset == "solve" and (step_flags or takes_steps):
        preset = "head"
        if optimizer is None:
            notes.append(explain.steps_text(step_flags))
    return _configure(preset, options, n_train), notes


def _flag(name: str) -> str:
    """Return the flag of an option, such as "--batch-size"."""
    return "--" + name.replace("_", "-")


def _check_stages(preset: str, options: Mapping[str, Any], solvable: bool) -> None:
    """Refuse options about stages that this preset does not train."""
    if options.get("head_first") and (solvable or preset in ("solve", "head", "scratch")):
        only = "nothing is pretrained" if preset == "scratch" else "only the head is trained"
        raise UsageError(f"--head-first: {only}, so there is no second phase", "leave it out")
    unused = sorted(_STAGE_OPTIONS & options.keys()) if preset in ("solve", "head") else []
    if unused:
        raise UsageError(
            f"{', '.join(map(_flag, unused))}: only the head is trained here",
            "leave it out, or train more: --freeze STAGE, --case large-similar",
        )


def _step_flags(options: Mapping[str, Any], mixing: str) -> list[str]:
    """Return the flags that ask for training in steps."""
    flags = [_flag(name) for name in sorted(_STEP_OPTIONS & options.keys())]
    if options.get("balance") == "sampler":
        flags.append("--balance")
    return [*flags, mixing] if mixing else flags


def _check_solver(optimizer: str, step_flags: str, solvable: bool) -> None:
    """Refuse a solver for anything but a linear head, and options that it does not take."""
    steppers = " or ".join(name for name, spec in OPTIMIZERS.items() if spec.takes_steps)
    if not solvable:
        raise UsageError(
            f"--optimizer {optimizer} fits a linear head only, and this plan trains more",
            f"use --optimizer {steppers}, or --freeze all-but-head",
        )
    if step_flags:
        raise UsageError(
            f"--optimizer {optimizer} takes no {step_flags}", f"use --optimizer {steppers}"
        )


def _configure(preset: str, options: Mapping[str, Any], n_train: int) -> TrainingConfig:
    """Return the preset for `n_train` images with the options applied."""
    optimizer = options.get("optimizer")
    config = TRAINING_PRESETS[preset]
    adjustments = [values for start, values in SIZE_ADJUSTMENTS[preset] if n_train >= start]
    config = replace(config, **(adjustments[-1] if adjustments else {}))
    if optimizer is not None:
        rates = find_optimizer(optimizer).learning_rates
        config = replace(config, lr=rates.get(preset, config.lr))
    for option in options:
        names = [name for name, spec in OPTIMIZERS.items() if option in spec.options]
        if names and optimizer not in names:
            needed = f"--optimizer {' or '.join(names)}"
            raise UsageError(f"{_flag(option)} needs {needed}", f"add {needed}")
    if options.get("lr") == FIND_LR:
        options = {k: v for k, v in options.items() if k != "lr"} | {"find_lr": True}
    config = replace(config, **options)
    warmup = find_lr_schedule(config.lr_schedule).warmup
    if "warmup" not in options and warmup is not None:
        config = replace(config, warmup=round(warmup * config.epochs, 3))
    if config.warmup > config.epochs:
        raise UsageError(
            f"--warmup {config.warmup:g} is longer than the {config.epochs} epochs",
            "the learning rate would never reach its full value",
        )
    return config


def with_more_epochs(config: TrainingConfig, epochs: int) -> TrainingConfig:
    """Return the configuration with `epochs`; a warm-up that was a share of them grows along."""
    share = find_lr_schedule(config.lr_schedule).warmup
    derived = share is not None and config.warmup == round(share * config.epochs, 3)
    warmup = round(share * epochs, 3) if derived and share is not None else config.warmup
    return replace(config, epochs=epochs, warmup=warmup)
