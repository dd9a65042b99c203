"""A backbone cut for a plan: a frozen prefix, a trainable suffix, and a head for new classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tlcli.backbones.backbone import Backbone
from tlcli.backbones.build import replace_head
from tlcli.backbones.catalogue import NEW_HEAD
from tlcli.backbones.stages import CLASSIFIER, FEATURES, Stage


class Pool(nn.Module):
    """Global average pooling, [n, ...] to [n, channels].

    Attributes:
        layout: the layout of the feature maps: "nchw", "nhwc" or "tokens"; or "flat" for features
            [n, channels], which are returned unchanged.
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
    """A backbone's stages with a head for the dataset's classes, cut into prefix and suffix.

    Attributes:
        backbone: the backbone that the stages belong to.
        stages: in order; the last one is the head.
        cut: number of leading stages that are frozen; the others are trained.
        dropped: whether the head is a new linear layer in place of dropped stages, which the
            backbone's own model does not contain.
    """

    backbone: Backbone
    stages: tuple[Stage, ...]
    cut: int
    dropped: bool

    @property
    def prefix(self) -> nn.Sequential:
        """The frozen stages."""
        return nn.Sequential(*self.stages[: self.cut])

    @property
    def suffix(self) -> nn.Sequential:
        """The trained stages."""
        return nn.Sequential(*self.stages[self.cut :])

    @property
    def model(self) -> nn.Sequential:
        """All stages: float32 [n, 3, h, w], normalized, to logits [n, classes]."""
        return nn.Sequential(*self.stages)

    @property
    def final_layer(self) -> nn.Linear | nn.Conv2d:
        """The layer that outputs the logits."""
        return final_layer(self.stages[-1])

    def tensors(self, stages: Sequence[Stage] | None = None) -> dict[str, Tensor]:
        """Return the tensors of `stages` (None: all) by their state-dict names, not copied.

        The names are torchvision's own; a new head's begin with "new_head".
        """
        stages = self.stages if stages is None else stages
        new_head = self.stages[-1] if self.dropped else None
        named = self.backbone.tensors([stage for stage in stages if stage is not new_head])
        if new_head is not None and any(stage is new_head for stage in stages):
            state = new_head.state_dict(keep_vars=True)
            named |= {f"{NEW_HEAD}.{name.rpartition('.')[2]}": t for name, t in state.items()}
        return named

    def freeze(self) -> None:
        """Freeze the prefix in eval mode; give the suffix gradients and train mode."""
        for stage in self.stages[: self.cut]:
            stage.eval().requires_grad_(False)
        for stage in self.stages[self.cut :]:
            stage.train().requires_grad_(True)


def build_network(
    backbone: Backbone, *, cut: str, dropped: bool, n_classes: int, init: str = "default"
) -> Network:
    """Give `backbone` a new head and cut it after a stage. Changes `backbone`.

    Args:
        cut: name of the last frozen stage; "none" to train all stages.
        dropped: replace the stages after the cut by pooling and a new linear head.
        n_classes: outputs of the new head.
        init: initialization of the layers that are not pretrained: "default" for torch's own,
            "normal" or "uniform".

    Raises:
        ValueError: the backbone has no stage named `cut`.
    """
    names = [s.name for s in backbone.stages]
    index = 0 if cut == "none" else names.index(cut) + 1
    if dropped:
        kept = backbone.stages[:index]
        pool, width = _pooling_stage(backbone, kept)
        network = Network(backbone, (*kept, pool, _new_head(width, n_classes)), index + 1, True)
    elif backbone.truncated_after is not None:
        head = _new_head(final_layer(backbone.stages[-1]).weight.shape[1], n_classes)
        network = Network(backbone, (*backbone.stages[:-1], head), index, True)
    else:
        replace_head(backbone, n_classes)
        network = Network(backbone, backbone.stages, index, dropped=False)
    if init != "default":
        _initialize(network, index, init)
    return network


def final_layer(head: nn.Module) -> nn.Linear | nn.Conv2d:
    """Return the last layer of `head` that has weights."""
    layers = [m for m in head.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return layers[-1]


def is_linear(backbone: Backbone) -> bool:
    """Return whether the head is a single `nn.Linear`, with nothing but dropout beside it."""
    leaves = [m for m in backbone.stages[-1].modules() if not list(m.children())]
    return all(isinstance(m, nn.Linear | nn.Dropout | nn.Identity) for m in leaves)


def set_dropout(network: Network, p: float | None) -> None:
    """Set the probability of the dropout before the final layer, adding one if there is none.

    State-dict names stay the same, because dropout has no tensors and `Network.tensors` takes the
    names from the model.

    Args:
        p: None leaves the network unchanged.
    """
    if p is None:
        return
    head = network.stages[-1]
    steps = list(head.steps)
    position = next(i for i, step in enumerate(steps) if network.final_layer in step.modules())
    dropouts = [step for step in steps[:position] if isinstance(step, nn.Dropout)]
    if dropouts:
        dropouts[-1].p = p
    else:
        head.steps = nn.Sequential(*steps[:position], nn.Dropout(p), *steps[position:])


def _new_head(width: int, n_classes: int) -> Stage:
    """Return a new linear head on `width` features."""
    return Stage(NEW_HEAD, CLASSIFIER, [nn.Linear(width, n_classes)])


@torch.no_grad()
def _pooling_stage(backbone: Backbone, kept: Sequence[Stage]) -> tuple[Stage, int]:
    """Return a stage that pools the output of `kept`, and how many features it gives per image."""
    side = backbone.preprocessing.crop
    features = nn.Sequential(*kept).eval()(torch.zeros(1, 3, side, side))
    layout = backbone.layout if features.dim() > 2 else "flat"
    pool = Stage("pool", FEATURES, [Pool(layout)])
    return pool, pool(features).shape[1]


def _initialize(network: Network, cut: int, init: str) -> None:
    """Initialize the weights of the final layer and of all trained layers not pretrained."""
    layers = [network.final_layer]
    for stage in network.stages[max(cut, network.backbone.pretrained) : -1]:
        layers += [m for m in stage.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for layer in layers:
        if init == "uniform":
            nn.init.xavier_uniform_(layer.weight)
        else:
            nn.init.normal_(layer.weight, std=0.01)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
