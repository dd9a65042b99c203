"""What is exported: a bundle's network and its description."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from tlcli.artifacts.bundle import BundleMeta
from tlcli.artifacts.export.graph import ExportGraph
from tlcli.artifacts.export.inputs import IMAGE
from tlcli.backbones.network import Network


@dataclass(frozen=True)
class ExportSource:
    """A bundle's network, and the input that its graph takes.

    Attributes:
        meta: the bundle's description.
        network: the bundle's network.
        input: one of `INPUTS`.
    """

    meta: BundleMeta
    network: Network
    input: str

    @property
    def graph(self) -> ExportGraph:
        """The whole function, from uint8 to probabilities."""
        return self.graph_of(self.network.model)

    def graph_of(self, model: nn.Module) -> ExportGraph:
        """Return the graph with `model` in place of the bundle's network."""
        model = model.eval().requires_grad_(False)
        return ExportGraph(model, self.meta.preprocessing, resizing=self.input == IMAGE)

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The traced graph; made only once, as it takes seconds."""
        side = self.meta.preprocessing.crop
        # Different sizes, or the tracer would take two of them for one.
        shape = (2, side + 1, side + 2, 3) if self.input == IMAGE else (2, side, side, 3)
        example = torch.zeros(shape, dtype=torch.uint8)
        with torch.no_grad():
            return torch.export.export(self.graph, (example,), dynamic_shapes=self.dynamic_shapes)

    @property
    def dynamic_shapes(self) -> tuple[dict[int, Any]]:
        """The axes of the input that may have any length."""
        names = ("batch", "height", "width") if self.input == IMAGE else ("batch",)
        return ({axis: Dim(name, min=1) for axis, name in enumerate(names)},)

    @property
    def about(self) -> dict[str, Any]:
        """The facts that a program which uses the export has to know."""
        return {
            "backbone": self.meta.backbone,
            "classes": list(self.meta.classes),
            "preprocessing": self.meta.preprocessing.to_dict(),
            "input": self.input,
        }
