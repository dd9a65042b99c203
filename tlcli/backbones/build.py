"""How a backbone is made: untrained, with another head, or with weights."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from tlcli.backbones import catalogue
from tlcli.backbones import weights as sources
from tlcli.backbones.backbone import Backbone
from tlcli.backbones.empty_init import build_on_meta
from tlcli.backbones.families import find_family
from tlcli.backbones.family import IMAGENET_CLASSES, Family
from tlcli.backbones.state_dict import prepare_state, read_state
from tlcli.errors import UsageError, UserError
from tlcli.reporter import Reporter
from tlcli.runtime.torchvision_import import torchvision
from tlcli.text import printable, shorten_list


def build_model(name: str, family: Family, n_classes: int, resolution: int) -> nn.Module:
    """Build the model `name` of `family`, initialized as its library does it.

    Raises:
        UsageError: the model cannot be built for that resolution.
    """
    own = family.own.get(name)
    builder = own.build if own else torchvision.models.get_model_builder(name)
    try:
        model: nn.Module = builder(num_classes=n_classes, **family.builder_arguments(resolution))
    except (ValueError, AssertionError) as error:
        if family.size_arguments is None:
            raise
        raise UsageError(
            f"{name} cannot see images of {resolution} x {resolution} pixels: {error}",
            "its patches or windows must divide the image",
        ) from None
    return model


def build(name: str, n_classes: int | None = None, resolution: int | None = None) -> Backbone:
    """An untrained backbone.

    Args:
        n_classes: outputs of the final layer; None for as many as it is published with.
        resolution: side of the images it will see, pixels; None for its native one.

    Raises:
        UsageError: no such backbone, or it cannot be built for that resolution.
    """
    entry = catalogue.find_entry(name)
    family = find_family(name)
    preprocessing = sources.native_preprocessing(entry)
    if resolution is not None:
        resize = round(preprocessing.resize * resolution / preprocessing.crop)
        preprocessing = replace(preprocessing, resize=resize, crop=resolution)
    classes = family.published_classes(name) if n_classes is None else n_classes
    model = build_model(name, family, classes, preprocessing.crop)
    return Backbone(name, family, model, family.stages(model), preprocessing)


def replace_head(backbone: Backbone, n_classes: int) -> None:
    """Gives `backbone` a new final layer of the same kind with torch's default initialisation.

    The stages are made anew, so that they hold it.
    """
    parent, _, last = backbone.head.rpartition(".")
    old = backbone.model.get_submodule(backbone.head)
    setattr(backbone.model.get_submodule(parent), last, _like(old, n_classes))
    backbone.stages = backbone.family.stages(backbone.model)
    backbone.categories = None
    backbone.pretrained = min(backbone.pretrained, backbone.head_index)


def _like(layer: nn.Module, outputs: int) -> nn.Module:
    bias = getattr(layer, "bias", None) is not None
    if isinstance(layer, nn.Conv2d):
        kernel = (layer.kernel_size[0], layer.kernel_size[1])
        new: nn.Module = nn.Conv2d(layer.in_channels, outputs, kernel, bias=bias)
    elif isinstance(layer, nn.Linear):
        new = nn.Linear(layer.in_features, outputs, bias=bias)
    else:
        raise TypeError(f"a head of type {type(layer).__name__} is not known")
    return new.to(next(layer.parameters())).train(layer.training)


def load(name: str, weights: str = "auto", reporter: Reporter | None = None) -> Backbone:
    """A backbone with its weights.

    Args:
        weights: "auto" (torchvision's default, or the package's own), "none", the name of one of
            torchvision's entries ("IMAGENET1K_V1"), or a file.

    Raises:
        UsageError: no such backbone, or no such weights.
        UserError: the weights cannot be had, or are not this backbone's.
    """
    entry = catalogue.find_entry(name)
    source = sources.find_weights(entry, weights, reporter or Reporter())
    if source is None:
        backbone = build(name)
        if weights == "auto":
            backbone.notes.append(f"no weights are published for {name}: all of it starts fresh")
        return backbone
    state = read_state(source.path)
    # random numbers only to load over them would take seconds: ConvNeXt-B 5, ViT-H 13
    with build_on_meta():
        backbone = build(name, resolution=source.preprocessing.crop)
    _fill(backbone, state, source)
    if any(t.is_meta for t in (*backbone.model.parameters(), *backbone.model.buffers())):
        # what starts fresh needs its initialisation
        backbone = build(name, resolution=source.preprocessing.crop)
        _fill(backbone, state, source)
    return backbone


def _fill(backbone: Backbone, state: dict[str, Tensor], source: sources.WeightsFile) -> None:
    """Loads `state` into the model, and notes which stages it leaves fresh.

    Raises:
        UserError: tensors are missing before the classifier, too many, or of other shapes.
    """
    backbone.preprocessing = source.preprocessing
    backbone.weights, backbone.weights_sha256 = source.label, source.sha256
    state = prepare_state(state, backbone.family, backbone.model)
    _drop_other_head(backbone, state)
    try:
        result = backbone.model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:  # sizes; the first line says only that there are errors
        raise _misfit(backbone, source, str(error).splitlines()[1:]) from None
    backbone.stages = backbone.family.stages(backbone.model)  # they hold what was assigned
    missing = set(result.missing_keys)
    fresh = [stage for stage in backbone.stages if missing & set(backbone.tensors([stage]))]
    if any(stage not in backbone.classifier for stage in fresh) or result.unexpected_keys:
        problems = [f"{key} is missing" for key in result.missing_keys]
        problems += [f"{key} is unknown" for key in result.unexpected_keys]
        raise _misfit(backbone, source, problems)
    backbone.pretrained = backbone.stages.index(fresh[0]) if fresh else len(backbone.stages)
    if fresh:
        names = ", ".join(stage.name for stage in fresh)
        backbone.notes.append(f"{source.label} has no weights for {names}: these start fresh")
    elif backbone.family.published_classes(backbone.name) == IMAGENET_CLASSES:
        backbone.categories = sources.imagenet_categories()


def _drop_other_head(backbone: Backbone, state: dict[str, Tensor]) -> None:
    """Takes a final layer for another number of classes out of `state`, and notes it."""
    own = backbone.model.get_parameter(f"{backbone.head}.weight").shape
    theirs = state.get(f"{backbone.head}.weight", torch.empty(own, device="meta")).shape
    if theirs[1:] == own[1:] and theirs[0] != own[0]:
        for name in ("weight", "bias"):
            state.pop(f"{backbone.head}.{name}", None)
        backbone.notes.append(
            f"the weights' final layer knows {theirs[0]} classes, {backbone.name}'s {own[0]}: "
            "it is left out"
        )


def _misfit(backbone: Backbone, source: sources.WeightsFile, problems: list[str]) -> UserError:
    told = shorten_list([problem.strip() for problem in problems], 3)
    return UserError(
        f"the weights in {printable(source.path)} are not {backbone.name}'s: {told}",
        "name the model they were saved from, or leave --weights out for the published ones",
    )
