"""The table of backbone families: how the models of each are built, divided and loaded.

Adding a family is adding an entry of `FAMILIES`, and running `tests.backbones.make_catalogue`. If
torchvision has a module for a stage, the stage bears its name (`layer1`, `features.3`). Dropout
belongs to the stage of the layer that follows it, so that every stage's output can be cached.
"""

from collections.abc import Mapping
from types import MappingProxyType

from tlcli.backbones.catalogue import find_entry
from tlcli.backbones.efficientnet_lite import LITE0, convert_package_state
from tlcli.backbones.family import Family
from tlcli.backbones.layers import (
    AddPositionEmbedding,
    InceptionNormalize,
    PatchesToTokens,
    Rotate180,
    SpatialMean,
    TakeClassToken,
    flatten,
    global_pool,
    relu,
)
from tlcli.backbones.lenet5 import LENET5
from tlcli.backbones.stages import (
    CLASSIFIER,
    child_paths,
    head_stage,
    stage,
    stage_per_block,
    stage_per_child,
    stage_per_layer,
    stage_per_module,
)
from tlcli.backbones.state_dict import drop_auxiliary_heads, rename_densenet_layers

_AVGPOOL = stage("avgpool", "avgpool", flatten)

# Auxiliary heads only help training from scratch, and without them `forward` returns plain logits.
# `init_weights=False` skips a slow truncated-normal initialization, as torchvision advises.
_NO_AUX = MappingProxyType({"aux_logits": False, "transform_input": True, "init_weights": False})

FAMILIES: Mapping[str, Family] = {
    "alexnet": Family(
        (
            stage_per_layer("features"),
            _AVGPOOL,
            stage("classifier.1", *child_paths("classifier", 0, 3), part=CLASSIFIER),
            stage("classifier.4", *child_paths("classifier", 3, 6), part=CLASSIFIER),
            head_stage("classifier.6"),
        ),
        head="classifier.6",
    ),
    "convnext": Family(
        (
            stage_per_child("features"),
            stage("avgpool", "avgpool"),
            stage("classifier.0", "classifier.0", "classifier.1", part=CLASSIFIER),
            head_stage("classifier.2"),
        ),
        head="classifier.2",
    ),
    "densenet": Family(
        (
            stage("stem", *(f"features.{name}0" for name in ("conv", "norm", "relu", "pool"))),
            stage_per_child("features", 4, -1),
            stage("norm5", "features.norm5", relu),
            stage("avgpool", global_pool, flatten),
            head_stage("classifier"),
        ),
        head="classifier",
        adapt_state=rename_densenet_layers,
    ),
    "efficientnet": Family(
        (stage_per_child("features"), _AVGPOOL, head_stage("classifier.0", "classifier.1")),
        head="classifier.1",
    ),
    "efficientnet_lite": Family(
        (
            stage("features.0", Rotate180, "features.0"),
            stage_per_child("features", 1),
            _AVGPOOL,
            head_stage("classifier.0", "classifier.1"),
        ),
        head="classifier.1",
        rotated=True,
        adapt_state=convert_package_state,
        own={"efficientnet_lite0": LITE0},
    ),
    "googlenet": Family(
        (
            stage("stem", InceptionNormalize, "conv1", "maxpool1"),
            stage("conv3", "conv2", "conv3", "maxpool2"),
            stage_per_module("inception3a"),
            stage("inception3b", "inception3b", "maxpool3"),
            stage_per_module("inception4a", "inception4b", "inception4c", "inception4d"),
            stage("inception4e", "inception4e", "maxpool4"),
            stage_per_module("inception5a", "inception5b"),
            _AVGPOOL,
            head_stage("dropout", "fc"),
        ),
        head="fc",
        arguments=_NO_AUX,
        adapt_state=drop_auxiliary_heads,
    ),
    "inception": Family(
        (
            stage(
                "stem",
                InceptionNormalize,
                "Conv2d_1a_3x3",
                "Conv2d_2a_3x3",
                "Conv2d_2b_3x3",
                "maxpool1",
            ),
            stage("Conv2d_4a_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
            stage_per_module("Mixed_5b", "Mixed_5c", "Mixed_5d"),
            stage_per_module("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
            stage_per_module("Mixed_7a", "Mixed_7b", "Mixed_7c"),
            _AVGPOOL,
            head_stage("dropout", "fc"),
        ),
        head="fc",
        arguments=_NO_AUX,
        adapt_state=drop_auxiliary_heads,
    ),
    "lenet": Family(
        (
            stage_per_layer("features"),
            stage_per_module("flatten"),
            stage("classifier.0", *child_paths("classifier", 0, 2), part=CLASSIFIER),
            stage("classifier.2", *child_paths("classifier", 2, 4), part=CLASSIFIER),
            head_stage("classifier.4"),
        ),
        head="classifier.4",
        own={"lenet5": LENET5},
    ),
    "maxvit": Family(
        (
            stage_per_module("stem"),
            stage_per_child("blocks"),
            stage("avgpool", "classifier.0", "classifier.1"),
            stage("classifier.3", *child_paths("classifier", 2, 5), part=CLASSIFIER),
            head_stage("classifier.5"),
        ),
        head="classifier.5",
        size_arguments=lambda side: {"input_size": (side, side)},
    ),
    "mnasnet": Family(
        (
            stage("stem", *child_paths("layers", 0, 3)),
            stage("separable", *child_paths("layers", 3, 8)),
            stage_per_child("layers", 8, 14),
            stage("last_conv", *child_paths("layers", 14, 17)),
            stage("avgpool", SpatialMean),
            head_stage("classifier.0", "classifier.1"),
        ),
        head="classifier.1",
        state_version=2,
    ),
    "mobilenetv2": Family(
        (
            stage_per_child("features"),
            stage("avgpool", global_pool, flatten),
            head_stage("classifier.0", "classifier.1"),
        ),
        head="classifier.1",
    ),
    "mobilenetv3": Family(
        (
            stage_per_child("features"),
            _AVGPOOL,
            stage("classifier.0", *child_paths("classifier", 0, 2), part=CLASSIFIER),
            head_stage("classifier.2", "classifier.3"),
        ),
        head="classifier.3",
    ),
    "regnet": Family(
        (stage_per_module("stem"), stage_per_child("trunk_output"), _AVGPOOL, head_stage("fc")),
        head="fc",
    ),
    "resnet": Family(
        (
            stage("stem", "conv1", "bn1", "relu", "maxpool"),
            stage_per_module("layer1", "layer2", "layer3", "layer4"),
            _AVGPOOL,
            head_stage("fc"),
        ),
        head="fc",
    ),
    "shufflenetv2": Family(
        (
            stage("stem", "conv1", "maxpool"),
            stage_per_module("stage2", "stage3", "stage4", "conv5"),
            stage("avgpool", SpatialMean),
            head_stage("fc"),
        ),
        head="fc",
    ),
    "squeezenet": Family(
        # its final layer is a convolution: pooling comes after it
        (stage_per_layer("features"), head_stage(*child_paths("classifier", 0, 4), flatten)),
        head="classifier.1",
    ),
    "swin": Family(
        (
            stage_per_child("features"),
            stage_per_module("norm"),
            stage("avgpool", "permute", "avgpool", "flatten"),
            head_stage("head"),
        ),
        head="head",
        layout="nhwc",
    ),
    "vgg": Family(
        (
            stage_per_block("features"),
            _AVGPOOL,
            stage("classifier.0", *child_paths("classifier", 0, 2), part=CLASSIFIER),
            stage("classifier.3", *child_paths("classifier", 2, 5), part=CLASSIFIER),
            head_stage("classifier.5", "classifier.6"),
        ),
        head="classifier.6",
    ),
    "vit": Family(
        (
            stage("stem", "conv_proj", PatchesToTokens, AddPositionEmbedding, "encoder.dropout"),
            stage_per_child("encoder.layers"),
            stage_per_module("encoder.ln"),
            stage("class_token", TakeClassToken),
            head_stage("heads.head"),
        ),
        head="heads.head",
        layout="tokens",
        size_arguments=lambda side: {"image_size": side},
    ),
}


def find_family(name: str) -> Family:
    """Return the family of the backbone `name`.

    Raises:
        UsageError: there is no such backbone.
    """
    return FAMILIES[find_entry(name).family]
