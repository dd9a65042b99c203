"""The families of backbones as data: how each one's chain of stages is made, and where it ends.

Where torchvision has a module for a stage, the stage bears its name (`layer1`, `features.3`).
Dropout sits with the layer that follows it, so that a stage's output is what can be remembered.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import nn

from tlcli.backbones.layers import (
    AddPositions,
    ClassToken,
    InceptionInput,
    Mean,
    ToTokens,
    Turn,
    flatten,
    pool,
    relu,
)
from tlcli.backbones.stages import (
    CLASSIFIER,
    Link,
    Stage,
    blocks,
    each,
    head,
    layers,
    one,
    own,
    span,
)


@dataclass(frozen=True)
class Family:
    """What the models of one family have in common.

    `head` is the path of the final classifier layer in the model. `layout` is how the stages'
    feature maps lie: "nchw", "nhwc" (channels last) or "tokens" (a class token, then patches);
    `turned` maps are upside down, by 180 degrees. `arguments` go to torchvision's builder.
    """

    links: tuple[Link, ...]
    head: str
    layout: str = "nchw"
    turned: bool = False
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def stages(self, model: nn.Module) -> tuple[Stage, ...]:
        """`model`'s stages in order; run one after the other they are its `forward`."""
        return tuple(stage for link in self.links for stage in link(model))


_AVGPOOL = one("avgpool", "avgpool", flatten)

# The auxiliary heads only help training from scratch; without them forward gives plain logits.
# torchvision's own slow truncated-normal initialisation of these two is skipped as it advises.
_NO_AUX = MappingProxyType({"aux_logits": False, "transform_input": True, "init_weights": False})

FAMILIES: dict[str, Family] = {
    "alexnet": Family(
        (
            layers("features"),
            _AVGPOOL,
            one("classifier.1", *span("classifier", 0, 3), part=CLASSIFIER),
            one("classifier.4", *span("classifier", 3, 6), part=CLASSIFIER),
            head("classifier.6"),
        ),
        head="classifier.6",
    ),
    "convnext": Family(
        (
            each("features"),
            one("avgpool", "avgpool"),
            one("classifier.0", "classifier.0", "classifier.1", part=CLASSIFIER),
            head("classifier.2"),
        ),
        head="classifier.2",
    ),
    "densenet": Family(
        (
            one("stem", *(f"features.{name}0" for name in ("conv", "norm", "relu", "pool"))),
            each("features", 4, -1),
            one("norm5", "features.norm5", relu),
            one("avgpool", pool, flatten),
            head("classifier"),
        ),
        head="classifier",
    ),
    "efficientnet": Family(
        (each("features"), _AVGPOOL, head("classifier.0", "classifier.1")), head="classifier.1"
    ),
    "efficientnet_lite": Family(
        (
            one("features.0", Turn, "features.0"),
            each("features", 1),
            _AVGPOOL,
            head("classifier.0", "classifier.1"),
        ),
        head="classifier.1",
        turned=True,
    ),
    "googlenet": Family(
        (
            one("stem", InceptionInput, "conv1", "maxpool1"),
            one("conv3", "conv2", "conv3", "maxpool2"),
            own("inception3a"),
            one("inception3b", "inception3b", "maxpool3"),
            own("inception4a", "inception4b", "inception4c", "inception4d"),
            one("inception4e", "inception4e", "maxpool4"),
            own("inception5a", "inception5b"),
            _AVGPOOL,
            head("dropout", "fc"),
        ),
        head="fc",
        arguments=_NO_AUX,
    ),
    "inception": Family(
        (
            one(
                "stem",
                InceptionInput,
                "Conv2d_1a_3x3",
                "Conv2d_2a_3x3",
                "Conv2d_2b_3x3",
                "maxpool1",
            ),
            one("Conv2d_4a_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
            own("Mixed_5b", "Mixed_5c", "Mixed_5d"),
            own("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
            own("Mixed_7a", "Mixed_7b", "Mixed_7c"),
            _AVGPOOL,
            head("dropout", "fc"),
        ),
        head="fc",
        arguments=_NO_AUX,
    ),
    "lenet": Family(
        (
            layers("features"),
            own("flatten"),
            one("classifier.0", *span("classifier", 0, 2), part=CLASSIFIER),
            one("classifier.2", *span("classifier", 2, 4), part=CLASSIFIER),
            head("classifier.4"),
        ),
        head="classifier.4",
    ),
    "maxvit": Family(
        (
            own("stem"),
            each("blocks"),
            one("avgpool", "classifier.0", "classifier.1"),
            one("classifier.3", *span("classifier", 2, 5), part=CLASSIFIER),
            head("classifier.5"),
        ),
        head="classifier.5",
    ),
    "mnasnet": Family(
        (
            one("stem", *span("layers", 0, 3)),
            one("separable", *span("layers", 3, 8)),
            each("layers", 8, 14),
            one("last_conv", *span("layers", 14, 17)),
            one("avgpool", Mean),
            head("classifier.0", "classifier.1"),
        ),
        head="classifier.1",
    ),
    "mobilenetv2": Family(
        (
            each("features"),
            one("avgpool", pool, flatten),
            head("classifier.0", "classifier.1"),
        ),
        head="classifier.1",
    ),
    "mobilenetv3": Family(
        (
            each("features"),
            _AVGPOOL,
            one("classifier.0", *span("classifier", 0, 2), part=CLASSIFIER),
            head("classifier.2", "classifier.3"),
        ),
        head="classifier.3",
    ),
    "regnet": Family((own("stem"), each("trunk_output"), _AVGPOOL, head("fc")), head="fc"),
    "resnet": Family(
        (
            one("stem", "conv1", "bn1", "relu", "maxpool"),
            own("layer1", "layer2", "layer3", "layer4"),
            _AVGPOOL,
            head("fc"),
        ),
        head="fc",
    ),
    "shufflenetv2": Family(
        (
            one("stem", "conv1", "maxpool"),
            own("stage2", "stage3", "stage4", "conv5"),
            one("avgpool", Mean),
            head("fc"),
        ),
        head="fc",
    ),
    "squeezenet": Family(
        # its final layer is a convolution: pooling comes after it
        (layers("features"), head(*span("classifier", 0, 4), flatten)),
        head="classifier.1",
    ),
    "swin": Family(
        (
            each("features"),
            own("norm"),
            one("avgpool", "permute", "avgpool", "flatten"),
            head("head"),
        ),
        head="head",
        layout="nhwc",
    ),
    "vgg": Family(
        (
            blocks("features"),
            _AVGPOOL,
            one("classifier.0", *span("classifier", 0, 2), part=CLASSIFIER),
            one("classifier.3", *span("classifier", 2, 5), part=CLASSIFIER),
            head("classifier.5", "classifier.6"),
        ),
        head="classifier.6",
    ),
    "vit": Family(
        (
            one("stem", "conv_proj", ToTokens, AddPositions, "encoder.dropout"),
            each("encoder.layers"),
            own("encoder.ln"),
            one("class_token", ClassToken),
            head("heads.head"),
        ),
        head="heads.head",
        layout="tokens",
    ),
}
