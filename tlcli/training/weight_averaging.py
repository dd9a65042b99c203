"""Averaged weights beside those in training."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn

SWA_FROM = 0.75
"""Share of the steps after which the equal mean begins (Izmailov et al. 2018)."""
SLOWEST = 0.9998
"""Decay of the forgetting mean at most: its memory is an epoch, at most 5,000 steps."""


class WeightAverage:
    """The mean of a network's tensors over its steps, BatchNorm's statistics included.

    The statistics are averaged as the weights are: they follow the batches of the same steps, so
    that no pass over the images is needed to measure them anew.
    """

    def __init__(self, network: nn.Module, kind: str, epochs: int, per_epoch: int) -> None:
        self.network = network
        total = epochs * per_epoch
        self.start = round(SWA_FROM * total) if kind == "swa" else 0
        decay = min(SLOWEST, 1 - 1 / max(2, per_epoch))
        self.model = (
            AveragedModel(network, avg_fn=get_swa_avg_fn(), use_buffers=True)
            if kind == "swa"
            else AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        )
        if kind == "ema":
            self.model.update_parameters(network)  # what it begins with counts
        self.steps = 0
        self.shown = False

    def update(self) -> None:
        """After a step."""
        self.steps += 1
        if self.steps > self.start:
            self.model.update_parameters(self.network)

    @torch.no_grad()
    def show(self, averaged: bool) -> None:
        """Put the averaged tensors into the network, or those in training back.

        The other ones stay here meanwhile. Before there is a mean nothing changes.
        """
        if averaged == self.shown or not self.model.n_averaged:
            return
        pairs = zip(_tensors(self.network), _tensors(self.model.module), strict=True)
        for theirs, ours in pairs:
            kept = theirs.clone()
            theirs.copy_(ours)
            ours.copy_(kept)
        self.shown = averaged

    def state_dict(self) -> dict[str, Any]:
        """The tensors that are not in the network now, and how far it is."""
        return {
            "tensors": self.model.state_dict(),
            "steps": self.steps,
            "shown": self.shown,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; the network must hold the tensors that it held then."""
        self.model.load_state_dict(state["tensors"])
        self.steps, self.shown = state["steps"], state["shown"]


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
