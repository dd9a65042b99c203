"""Optimizers and learning rates, as a schedule says."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tlcli.backbones.network import Network
from tlcli.planning.training_config import TrainingConfig
from tlcli.runtime.optim_import import optim

FUSED = ("cpu", "cuda", "mps")


def make_optimizer(network: Network, config: TrainingConfig) -> optim.Optimizer:
    """Parameter groups by stage, earlier ones with smaller steps; no decay on vectors.

    One kernel updates all tensors of a kind where the device has such (the CPU too).
    """
    fused = network.final_layer.weight.device.type in FUSED
    groups = []
    trained = network.stages[network.cut :]
    for depth, stage in enumerate(trained):
        lr = config.lr * config.layer_decay ** (len(trained) - 1 - depth)
        parameters = [p for p in stage.parameters() if p.requires_grad]
        for decayed in (True, False):
            mine = [p for p in parameters if (p.dim() > 1) == decayed]
            if mine:
                decay = config.weight_decay if decayed else 0.0
                groups.append({"params": mine, "lr": lr, "weight_decay": decay})
    if config.optimizer == "sgd":
        return optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)
    return optim.AdamW(groups, lr=config.lr, fused=fused)


def rate_factor(config: TrainingConfig, per_epoch: int) -> Callable[[int], float]:
    """The learning rate at a step, as a share of the full one."""
    total = config.epochs * per_epoch
    warmup = min(max(1, round(config.warmup * per_epoch)) if config.warmup else 0, total)
    rise, fall = SHAPES[config.lr_schedule]

    def factor(step: int) -> float:
        if step < warmup:
            return rise((step + 1) / (warmup + 1))
        return fall((step - warmup) / max(1, total - warmup))

    return factor


def _half_cosine(share: float) -> float:
    """From 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * share))


def _linear(share: float) -> float:
    return 1 - share


# How the rate rises (by the share of the warm-up that is behind) and what it does then.
SHAPES: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "cosine": (float, _half_cosine),
    "linear": (float, _linear),
    "one-cycle": (lambda share: 1 / 25 + 24 / 25 * _half_cosine(1 - share), _half_cosine),
    "constant": (float, lambda _: 1.0),
}


def laid_out_alike(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer's tensors the memory layout of what they belong to.

    Files keep none, and another layout takes other instructions, with other last digits.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()
