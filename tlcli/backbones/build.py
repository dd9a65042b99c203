"""Building a backbone: untrained, with weights, or with a new head."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from tlcli.backbones import catalogue
from tlcli.backbones import weights as weight_files
from tlcli.backbones.backbone import Backbone
from tlcli.backbones.empty_init import build_on_meta
from tlcli.backbones.families import find_family
from tlcli.backbones.family import IMAGENET_CLASSES, Family
from tlcli.backbones.state_dict import prepare_state, read_state
from tlcli.backbones.weights import WeightsFile
from tlcli.errors import UsageError, UserError
from tlcli.reporter import Reporter
from tlcli.runtime.torchvision_without_dynamo import torchvision
from tlcli.text import printable, shorten_list


def load_backbone(name: str, weights: str = "auto", reporter: Reporter | None = None) -> Backbone:
    """Build a backbone and load its weights.

    Args:
        name: a name in the catalogue.
        weights: "auto" (the recommended published weights), "none", the name of one of
            torchvision's entries ("IMAGENET1K_V1"), or the path of a file.
        reporter: receives the progress of a download.

    Raises:
        UsageError: there is no such backbone, or no such weights.
        UserError: the weights cannot be read or downloaded, or do not fit the backbone.
    """
    entry = catalogue.find_entry(name)
    file = weight_files.find_weights(entry, weights, reporter or Reporter())
    if file is None:
        backbone = build(name)
        if weights == "auto":
            backbone.notes.append(f"no weights are published for {name}: it starts untrained")
        return backbone
    state = read_state(file.path)
    # initializing weights that are then overwritten would take 5 s for ConvNeXt-B, 13 s for ViT-H
    with build_on_meta():
        backbone = build(name, resolution=file.preprocessing.crop)
    _load_state(backbone, state, file)
    if any(t.is_meta for t in (*backbone.model.parameters(), *backbone.model.buffers())):
        # stages that the file has no weights for need their initialization
        backbone = build(name, resolution=file.preprocessing.crop)
        _load_state(backbone, state, file)
    return backbone


def build(name: str, n_classes: int | None = None, resolution: int | None = None) -> Backbone:
    """Build an untrained backbone.

    Args:
        name: a name in the catalogue.
        n_classes: outputs of the final layer; None for as many as it is published with.
        resolution: side of the input images in pixels; None for the native one.

    Raises:
        UsageError: there is no such backbone, or it cannot be built for that resolution.
    """
    entry = catalogue.find_entry(name)
    family = find_family(name)
    preprocessing = weight_files.native_preprocessing(entry)
    if resolution is not None:
        resize = round(preprocessing.resize * resolution / preprocessing.crop)
        preprocessing = replace(preprocessing, resize=resize, crop=resolution)
    classes = family.published_classes(name) if n_classes is None else n_classes
    model = build_model(name, family, classes, preprocessing.crop)
    return Backbone(name, family, model, family.stages(model), preprocessing)


def build_model(name: str, family: Family, n_classes: int, resolution: int) -> nn.Module:
    """Build the bare model `name` of `family`, initialized the way its library does it.

    Raises:
        UsageError: the model cannot be built for images of `resolution` pixels a side.
    """
    own = family.own.get(name)
    builder = own.build if own else torchvision.models.get_model_builder(name)
    try:
        model: nn.Module = builder(num_classes=n_classes, **family.builder_arguments(resolution))
    except (ValueError, AssertionError) as error:
        if family.size_arguments is None:
            raise
        raise UsageError(
            f"{name} cannot be built for images of {resolution} x {resolution} pixels: {error}",
            "the image must be divisible into its patches or windows",
        ) from None
    return model


def replace_head(backbone: Backbone, n_classes: int) -> None:
    """Replace `backbone`'s final layer by one for `n_classes`, with torch's default
    initialization.

    The new layer is of the same type. `backbone.stages` are made again, so that they hold it.

    Raises:
        TypeError: the final layer is neither linear nor a convolution.
    """
    parent, _, last = backbone.head.rpartition(".")
    old = backbone.model.get_submodule(backbone.head)
    setattr(backbone.model.get_submodule(parent), last, _resized_layer(old, n_classes))
    backbone.stages = backbone.family.stages(backbone.model)
    backbone.categories = None
    backbone.pretrained = min(backbone.pretrained, backbone.head_index)


def _resized_layer(layer: nn.Module, outputs: int) -> nn.Module:
    """Return an untrained layer like `layer` with another number of outputs."""
    bias = getattr(layer, "bias", None) is not None
    if isinstance(layer, nn.Conv2d):
        kernel = (layer.kernel_size[0], layer.kernel_size[1])
        new: nn.Module = nn.Conv2d(layer.in_channels, outputs, kernel, bias=bias)
    elif isinstance(layer, nn.Linear):
        new = nn.Linear(layer.in_features, outputs, bias=bias)
    else:
        raise TypeError(f"a head of type {type(layer).__name__} cannot be replaced")
    return new.to(next(layer.parameters())).train(layer.training)


def _load_state(backbone: Backbone, state: dict[str, Tensor], file: WeightsFile) -> None:
    """Load `state`, which `file` contains, into the model, and set `backbone.pretrained`.

    Raises:
        UserError: tensors before the classifier are missing, or some are unknown or of other
            shapes.
    """
    backbone.preprocessing = file.preprocessing
    backbone.weights, backbone.weights_sha256 = file.label, file.sha256
    state = prepare_state(state, backbone.family, backbone.model)
    _drop_mismatched_head(backbone, state)
    try:
        result = backbone.model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:  # shapes differ; the first line only says that there are errors
        raise _wrong_weights(backbone, file, str(error).splitlines()[1:]) from None
    backbone.stages = backbone.family.stages(backbone.model)  # to hold the assigned tensors
    missing = set(result.missing_keys)
    untrained = [stage for stage in backbone.stages if missing & set(backbone.tensors([stage]))]
    if any(stage not in backbone.classifier for stage in untrained) or result.unexpected_keys:
        problems = [f"{key} is missing" for key in result.missing_keys]
        problems += [f"{key} is unknown" for key in result.unexpected_keys]
        raise _wrong_weights(backbone, file, problems)
    n_stages = len(backbone.stages)
    backbone.pretrained = backbone.stages.index(untrained[0]) if untrained else n_stages
    if untrained:
        names = ", ".join(stage.name for stage in untrained)
        backbone.notes.append(f"{file.label} has no weights for {names}: they start untrained")
    elif backbone.family.published_classes(backbone.name) == IMAGENET_CLASSES:
        backbone.categories = weight_files.imagenet_categories()


def _drop_mismatched_head(backbone: Backbone, state: dict[str, Tensor]) -> None:
    """Remove a final layer for another number of classes from `state`, and note it."""
    expected = backbone.model.get_parameter(f"{backbone.head}.weight").shape
    found = state.get(f"{backbone.head}.weight", torch.empty(expected, device="meta")).shape
    if found[1:] == expected[1:] and found[0] != expected[0]:
        for name in ("weight", "bias"):
            state.pop(f"{backbone.head}.{name}", None)
        backbone.notes.append(
            f"the final layer of the weights is left out: it has {found[0]} classes, and "
            f"{backbone.name} has {expected[0]}"
        )


def _wrong_weights(backbone: Backbone, file: WeightsFile, problems: list[str]) -> UserError:
    """Return the error for weights of another model."""
    listed = shorten_list([problem.strip() for problem in problems], 3)
    return UserError(
        f"the weights in {printable(file.path)} are not for {backbone.name}: {listed}",
        "name the model that they were saved from, or omit --weights to use the published ones",
    )
