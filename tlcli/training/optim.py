"""The optimizer and the learning rate of each step, as a `TrainingConfig` says."""

import pkgutil
from collections.abc import Callable

import torch
from torch import Tensor

from tlcli.backbones.network import Network
from tlcli.planning.optimizers import find_lr_schedule, find_optimizer
from tlcli.planning.training_config import TrainingConfig
from tlcli.runtime.optim_without_dynamo import optim

FUSED_DEVICES = ("cpu", "cuda", "mps")
"""Types of device with one kernel that updates all tensors of a kind."""


def make_optimizer(network: Network, config: TrainingConfig) -> optim.Optimizer:
    """Make the optimizer, with parameter groups by stage.

    Earlier stages take smaller steps, and vectors have no weight decay.

    Raises:
        UsageError: there is no optimizer of this name.
        ValueError: this optimizer takes no steps.
    """
    spec = find_optimizer(config.optimizer)
    if spec.step_class is None:
        raise ValueError(f"{config.optimizer} solves a head and takes no steps")
    groups = []
    trained = network.stages[network.cut :]
    for depth, stage in enumerate(trained):
        lr = config.lr * config.layer_decay ** (len(trained) - 1 - depth)
        parameters = [p for p in stage.parameters() if p.requires_grad]
        for decayed in (True, False):
            group = [p for p in parameters if (p.dim() > 1) == decayed]
            if group:
                weight_decay = config.weight_decay if decayed else 0.0
                groups.append({"params": group, "lr": lr, "weight_decay": weight_decay})
    options = {name: getattr(config, name) for name in spec.options}
    if spec.has_fused:
        options["fused"] = network.final_layer.weight.device.type in FUSED_DEVICES
    optimizer: optim.Optimizer = pkgutil.resolve_name(spec.step_class)(
        groups, lr=config.lr, **options
    )
    return optimizer


def lr_factor(config: TrainingConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Return a function of a step that gives its learning rate as a multiple of the full one."""
    schedule = find_lr_schedule(config.lr_schedule)
    total = config.epochs * steps_per_epoch
    warmup = min(max(1, round(config.warmup * steps_per_epoch)) if config.warmup else 0, total)

    def factor(step: int) -> float:
        if step < warmup:
            return schedule.rise((step + 1) / (warmup + 1))
        return schedule.fall((step - warmup) / max(1, total - warmup))

    return factor


def match_memory_format(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer's tensors the memory format of their parameters.

    Files keep none, and another format takes other instructions, with other last digits.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()
