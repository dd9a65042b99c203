"""The structure of a backbone: its stages and their output shapes, computed without weights."""

from dataclasses import dataclass

import torch

from tlcli.backbones.build import build
from tlcli.backbones.empty_init import build_on_meta


@dataclass(frozen=True)
class StageInfo:
    """A stage without its weights.

    Attributes:
        name: the stage's name.
        part: "features" or "classifier".
        output: shape of its output for one image, without the batch.
        parameters: number of its parameters.
    """

    name: str
    part: str
    output: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Structure:
    """The stages of a backbone as it is published.

    Attributes:
        stages: in order.
        head: path of the final classifier layer in the model.
        resolution: side of the input image in pixels.
        parameters: number of parameters of all stages.
    """

    stages: tuple[StageInfo, ...]
    head: str
    resolution: int
    parameters: int


def describe(name: str) -> Structure:
    """Return the structure of the backbone `name` at its native resolution.

    Raises:
        UsageError: there is no such backbone.
    """
    with build_on_meta():
        backbone = build(name)
    backbone.model.eval().to("meta")  # moves its index buffers, which are on the CPU
    side = backbone.preprocessing.crop
    x = torch.empty(1, 3, side, side, device="meta")
    stages = []
    with torch.no_grad():
        for stage in backbone.stages:
            x = stage(x)
            parameters = sum(p.numel() for p in stage.parameters())
            stages.append(StageInfo(stage.name, stage.part, tuple(x.shape[1:]), parameters))
    return Structure(tuple(stages), backbone.head, side, sum(s.parameters for s in stages))
