"""Optimizers and learning rates, as a schedule says."""

import math
from collections.abc import Callable

import torch

from tlcli.transfer.network import Network
from tlcli.transfer.schedule import Schedule


def make_optimizer(network: Network, schedule: Schedule) -> torch.optim.Optimizer:
    """Parameter groups by stage, earlier ones with smaller steps; no decay on vectors."""
    groups = []
    trained = network.stages[network.cut :]
    for depth, stage in enumerate(trained):
        lr = schedule.lr * schedule.layer_decay ** (len(trained) - 1 - depth)
        parameters = [p for p in stage.parameters() if p.requires_grad]
        for decayed in (True, False):
            mine = [p for p in parameters if (p.dim() > 1) == decayed]
            if mine:
                decay = schedule.weight_decay if decayed else 0.0
                groups.append({"params": mine, "lr": lr, "weight_decay": decay})
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.lr, momentum=schedule.momentum)
    return torch.optim.AdamW(groups, lr=schedule.lr)


def rate_factor(schedule: Schedule, per_epoch: int) -> Callable[[int], float]:
    """The learning rate at a step, as a share of the full one."""
    total = schedule.epochs * per_epoch
    warm_up = max(1, per_epoch // 2)

    def cosine(step: int) -> float:
        if step < warm_up:
            return (step + 1) / (warm_up + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))

    return cosine if schedule.lr_schedule == "cosine" else lambda _: 1.0
