"""A plan carried out on a backbone: a frozen prefix, a trainable suffix, a cut."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tlcli.backbones.build import Backbone, replace_head
from tlcli.backbones.catalogue import NEW_HEAD
from tlcli.backbones.stages import Stage


class Pool(nn.Module):
    """The mean over the places of an activation: [n, ...] to [n, channels].

    `layout` is the backbone's, or "flat" for codes [n, channels], which stay as they are.
    """

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        if self.layout == "flat":
            return x
        if self.layout == "nchw":
            return x.flatten(2).mean(2)
        return x.flatten(1, -2).mean(1)


@dataclass
class Network:
    """The stages that are kept, the last one a head for the dataset's classes.

    `stages[:cut]` is frozen, `stages[cut:]` trained. `names` are the trained and frozen tensors
    by their state-dict names: torchvision's own, but for a new head on an earlier stage.
    """

    backbone: Backbone
    stages: tuple[Stage, ...]
    cut: int
    dropped: bool

    @property
    def prefix(self) -> nn.Sequential:
        return nn.Sequential(*self.stages[: self.cut])

    @property
    def suffix(self) -> nn.Sequential:
        return nn.Sequential(*self.stages[self.cut :])

    @property
    def whole(self) -> nn.Sequential:
        return nn.Sequential(*self.stages)

    @property
    def final(self) -> nn.Linear | nn.Conv2d:
        """The layer whose outputs are the classes."""
        return final_layer(self.stages[-1])

    def tensors(self, stages: Sequence[Stage] | None = None) -> dict[str, Tensor]:
        """State-dict names to the tensors of `stages` (all, where it is None), not copies."""
        stages = self.stages if stages is None else stages
        own = {} if not self.dropped else dict(self.stages[-1].state_dict(keep_vars=True))
        theirs = [s for s in stages if not (self.dropped and s is self.stages[-1])]
        named = self.backbone.tensors(theirs)
        if len(theirs) < len(stages):
            named |= {f"{NEW_HEAD}.{k.rpartition('.')[2]}": v for k, v in own.items()}
        return named

    def freeze(self) -> None:
        """Prefix without gradients and in eval mode, suffix with and in train mode."""
        for stage in self.stages[: self.cut]:
            stage.eval().requires_grad_(False)
        for stage in self.stages[self.cut :]:
            stage.train().requires_grad_(True)


def final_layer(head: nn.Module) -> nn.Linear | nn.Conv2d:
    """The last layer of a head stage that has weights."""
    layers = [m for m in head.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return layers[-1]


def set_dropout(network: Network, share: float | None) -> None:
    """Leave out that share of the codes before the final layer in training; None: as it is.

    State-dict names stay: a dropout has no tensors, and `Network.tensors` names by the model's own.
    """
    if share is None:
        return
    head = network.stages[-1]
    steps = list(head.steps)
    before = next(i for i, step in enumerate(steps) if network.final in list(step.modules()))
    found = [step for step in steps[:before] if isinstance(step, nn.Dropout)]
    if found:
        found[-1].p = share
    else:
        head.steps = nn.Sequential(*steps[:before], nn.Dropout(share), *steps[before:])


def is_linear(backbone: Backbone) -> bool:
    """Whether the head is one `nn.Linear` with nothing but dropout beside it."""
    steps = [m for m in backbone.stages[-1].modules() if not list(m.children())]
    return all(isinstance(m, nn.Linear | nn.Dropout | nn.Identity) for m in steps)


def build_network(
    backbone: Backbone, *, cut: str, dropped: bool, n_classes: int, init: str = "default"
) -> Network:
    """Give `backbone` a new head for `n_classes` and cut it behind the stage named `cut`.

    Where `dropped`, the stages behind the cut go, and the new head reads the pooled activations
    of the last one kept. Changes `backbone`.

    Raises:
        ValueError: it has no stage of that name.
    """
    names = [s.name for s in backbone.stages]
    index = 0 if cut == "none" else names.index(cut) + 1
    if dropped:
        kept = backbone.stages[:index]
        pool, width = _pooled(backbone, kept)
        network = Network(backbone, (*kept, pool, _new_head(width, n_classes)), index + 1, True)
    elif backbone.ends is not None:
        head = _new_head(final_layer(backbone.stages[-1]).weight.shape[1], n_classes)
        network = Network(backbone, (*backbone.stages[:-1], head), index, True)
    else:
        replace_head(backbone, n_classes)
        network = Network(backbone, backbone.stages, index, dropped=False)
    if init != "default":
        _initialize(network, index, init)
    return network


def _new_head(width: int, n_classes: int) -> Stage:
    return Stage(NEW_HEAD, "classifier", [nn.Linear(width, n_classes)])


@torch.no_grad()
def _pooled(backbone: Backbone, kept: Sequence[Stage]) -> tuple[Stage, int]:
    """A stage that pools what `kept` give, and how many numbers an image that is."""
    side = backbone.preprocessing.crop
    codes = nn.Sequential(*kept).eval()(torch.zeros(1, 3, side, side))
    pool = Stage("pool", "features", [Pool(backbone.layout if codes.dim() > 2 else "flat")])
    return pool, pool(codes).shape[1]


def _initialize(network: Network, cut: int, init: str) -> None:
    """Draw the new layers' weights anew: the final one and all that was not pretrained."""
    fresh = [network.final]
    for stage in network.stages[max(cut, network.backbone.pretrained) : -1]:
        fresh += [m for m in stage.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for layer in fresh:
        if init == "uniform":
            nn.init.xavier_uniform_(layer.weight)
        else:
            nn.init.normal_(layer.weight, std=0.01)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
