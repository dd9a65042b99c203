"""A backbone's stages with their output shapes, without weights and with hardly any memory."""

from dataclasses import dataclass

import torch

from tlcli.backbones.build import build
from tlcli.backbones.empty_init import build_on_meta


@dataclass(frozen=True)
class StageInfo:
    """`output` is the shape for one image, without the batch."""

    name: str
    part: str
    output: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Structure:
    """`head` is the path of the final layer; `resolution` the input's side, pixels."""

    rows: tuple[StageInfo, ...]
    head: str
    resolution: int
    parameters: int


def describe(name: str) -> Structure:
    """The structure of a backbone as it is published, for its native resolution.

    Raises:
        UsageError: no such backbone.
    """
    with build_on_meta():
        backbone = build(name)
    backbone.model.eval().to("meta")  # its index buffers too
    side = backbone.preprocessing.crop
    x = torch.empty(1, 3, side, side, device="meta")
    rows = []
    with torch.no_grad():
        for stage in backbone.stages:
            x = stage(x)
            parameters = sum(p.numel() for p in stage.parameters())
            rows.append(StageInfo(stage.name, stage.part, tuple(x.shape[1:]), parameters))
    return Structure(tuple(rows), backbone.head, side, sum(row.parameters for row in rows))
