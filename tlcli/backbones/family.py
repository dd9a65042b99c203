"""The class `Family`: how the models of one family are built, divided into stages, and loaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from tlcli.backbones.stages import Stage, StageRule
from tlcli.data.preprocessing import Preprocessing

IMAGENET_CLASSES = 1000

StateAdapter = Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]]
"""Turns a published state dict into one with the tensor names and values of the given model."""


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True)
class PublishedWeights:
    """A weight file that somebody published.

    Attributes:
        label: its name in run records: torchvision's "IMAGENET1K_V1", else the file's name.
        file: the file's name, which ends with the first digits of the file's SHA-256:
            `resnet18-f37072fd.pth`.
        url: the full address it is downloaded from; None if it comes with `package`.
        preprocessing: the preprocessing it was trained with.
        package: import name of the Python package that holds the file in its folder `models`.
        license: what is known about its license, as a sentence.
    """

    label: str
    file: str
    url: str | None
    preprocessing: Preprocessing
    package: str | None = None
    license: str = ""


@dataclass(frozen=True)
class OwnModel:
    """A model that torchvision does not have, so tlcli builds it itself.

    Attributes:
        build: makes the untrained model from `num_classes` and the family's arguments.
        preprocessing: the preprocessing it is published with.
        n_classes: number of outputs that it is published with.
        weights: its published weights; None if there are none.
        top1: accuracy of these weights on ImageNet's validation images, in percent.
    """

    build: Callable[..., nn.Module]
    preprocessing: Preprocessing
    n_classes: int = IMAGENET_CLASSES
    weights: PublishedWeights | None = None
    top1: float | None = None


@dataclass(frozen=True)
class Family:
    """What the models of one family have in common.

    Attributes:
        rules: how a model is divided into stages, in order; see `tlcli.backbones.stages`.
        head: path of the final classifier layer in the model.
        layout: memory layout of the stages' feature maps: "nchw", "nhwc" (channels last) or
            "tokens" (the class token, then the patches).
        rotated: whether the feature maps are rotated by 180 degrees relative to the image.
        arguments: keyword arguments for the model's builder.
        size_arguments: makes further keyword arguments from the image's side in pixels, for
            models whose tensors depend on it.
        adapt_state: brings published state dicts to the model's own names and values.
        state_version: the version that the model expects in its state dict's metadata.
        own: the models that tlcli builds itself, by name; torchvision builds all others.
    """

    rules: tuple[StageRule, ...]
    head: str
    layout: str = "nchw"
    rotated: bool = False
    arguments: Mapping[str, Any] = field(default_factory=_nothing)
    size_arguments: Callable[[int], Mapping[str, Any]] | None = None
    adapt_state: StateAdapter | None = None
    state_version: int | None = None
    own: Mapping[str, OwnModel] = field(default_factory=_nothing)

    def stages(self, model: nn.Module) -> tuple[Stage, ...]:
        """Return `model`'s stages in order; run one after the other they are its `forward`."""
        return tuple(stage for rule in self.rules for stage in rule(model))

    def builder_arguments(self, resolution: int) -> dict[str, Any]:
        """Return the builder's keyword arguments for images of `resolution` pixels a side."""
        sized = self.size_arguments(resolution) if self.size_arguments else {}
        return {**self.arguments, **sized}

    def published_classes(self, name: str) -> int:
        """Return how many outputs the model `name` is published with."""
        return self.own[name].n_classes if name in self.own else IMAGENET_CLASSES
