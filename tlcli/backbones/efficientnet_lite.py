"""EfficientNet-lite0, built of torchvision's own EfficientNet, and how its weights get into it.

EfficientNet-lite (Google, 2020) is EfficientNet without squeeze-excitation and with ReLU6 in place
of SiLU, so that it quantises and runs well on phones; stem and head keep their width.

The weights were trained in TensorFlow, whose "same" padding at stride 2 gives an even-sized map
its odd row and column of zeros below and on the right; torchvision pads above and on the left.
Seen upside down (turned by 180 degrees) the two are the same. So the image is turned first and the
kernels are turned once, when the file is read: exact at every size, no time lost, where padding
by hand takes a third of the speed. On the 1,000 ImageNet samples, 856 are right so; with
torchvision's padding taken as it is, 786.
"""

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

import tlcli.runtime.torchvision_import  # noqa: F401  (torchvision the quick way, before the next line)

from torchvision.models.efficientnet import EfficientNet, MBConv, MBConvConfig  # isort: skip

# expansion, kernel, stride, channels in, channels out, layers: EfficientNet-B0's own, unscaled
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
    """EfficientNet-lite0 for float32 [n, 3, 224, 224], normalised; logits [n, num_classes].

    Its feature maps lie upside down.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        # Identity swallows the arguments of the squeeze-excitation whose place it takes
        block = partial(MBConv, se_layer=nn.Identity)
        super().__init__(
            [MBConvConfig(*row, block=block) for row in _BLOCKS],
            dropout=0.2,
            last_channel=1280,
            num_classes=num_classes,
            # TensorFlow's epsilon and momentum, with which the weights were trained
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
    """The package's tensors (`_conv_stem.weight`, ...) under `model`'s names, the kernels turned.

    The file lists the same layers in the same order; loading checks every shape. A state dict that
    has `model`'s names already was saved by tlcli and comes back as it is.
    """
    names = list(model.state_dict())
    if len(state) != len(names) or any(name in state for name in names):
        return dict(state)
    turned = (t.flip(2, 3) if t.ndim == 4 else t for t in state.values())
    return dict(zip(names, turned, strict=True))
