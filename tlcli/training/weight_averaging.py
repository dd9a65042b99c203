"""Averaged weights, kept beside the weights in training."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn

SWA_START = 0.75
"""Share of the steps after which the equal mean begins (Izmailov et al. 2018)."""
MAX_EMA_DECAY = 0.9998
"""Limit on the decay of the moving average, whose memory is an epoch: 5,000 steps at most."""


class WeightAverage:
    """The mean of a network's tensors over its steps, BatchNorm statistics included.

    The statistics are averaged as the weights are: they follow the batches of the same steps, so
    no pass over the images is needed to measure them again.

    Attributes:
        steps: the number of steps so far.
        shown: whether the averaged tensors are in the network now.
    """

    def __init__(self, network: nn.Module, kind: str, epochs: int, steps_per_epoch: int) -> None:
        self.network = network
        self._start = round(SWA_START * epochs * steps_per_epoch) if kind == "swa" else 0
        decay = min(MAX_EMA_DECAY, 1 - 1 / max(2, steps_per_epoch))
        self.model = (
            AveragedModel(network, avg_fn=get_swa_avg_fn(), use_buffers=True)
            if kind == "swa"
            else AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        )
        if kind == "ema":
            self.model.update_parameters(network)  # the weights that it begins with count
        self.steps = 0
        self.shown = False

    def update(self) -> None:
        """Take the network's tensors into the mean, after a step."""
        self.steps += 1
        if self.steps > self._start:
            self.model.update_parameters(self.network)

    @torch.no_grad()
    def show(self, averaged: bool) -> None:
        """Put the averaged tensors into the network, or the ones in training back.

        The other ones stay here meanwhile. Before there is a mean nothing changes.
        """
        if averaged == self.shown or not self.model.n_averaged:
            return
        pairs = zip(_tensors(self.network), _tensors(self.model.module), strict=True)
        for in_network, here in pairs:
            kept = in_network.clone()
            in_network.copy_(here)
            here.copy_(kept)
        self.shown = averaged

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors that are not in the network now, and the position."""
        return {
            "tensors": self.model.state_dict(),
            "steps": self.steps,
            "shown": self.shown,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state`; the network must hold the tensors that it held then."""
        self.model.load_state_dict(state["tensors"])
        self.steps, self.shown = state["steps"], state["shown"]


def _tensors(module: nn.Module) -> list[Tensor]:
    """Return all parameters and buffers."""
    return [*module.parameters(), *module.buffers()]
