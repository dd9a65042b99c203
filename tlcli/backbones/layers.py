"""The operations that models apply in `forward` between their modules, as modules of their own.

With them a chain of stages can be cut anywhere and traced by torch.fx. Each is made from the model
that it belongs to, as a step of a stage; most need nothing of it.
"""

import torch
from torch import Tensor, nn


def flatten(_: nn.Module) -> nn.Module:
    """Return a layer that flattens [n, c, h, w] to [n, c * h * w]."""
    return nn.Flatten(1)


def global_pool(_: nn.Module) -> nn.Module:
    """Return a layer that averages [n, c, h, w] to [n, c, 1, 1]."""
    return nn.AdaptiveAvgPool2d((1, 1))


def relu(_: nn.Module) -> nn.Module:
    """Return an in-place ReLU, which DenseNet applies after its last norm."""
    return nn.ReLU(inplace=True)


class SpatialMean(nn.Module):
    """The mean over height and width, [n, c, h, w] to [n, c], as in MNASNet and ShuffleNet.

    Its results differ from `global_pool`'s in the last bits.
    """

    def __init__(self, _: nn.Module) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


class InceptionNormalize(nn.Module):
    """The change from ImageNet's mean and std to 0.5 and 0.5, the first step of GoogLeNet and
    Inception."""

    def __init__(self, _: nn.Module) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        red = torch.unsqueeze(x[:, 0], 1) * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
        green = torch.unsqueeze(x[:, 1], 1) * (0.224 / 0.5) + (0.456 - 0.5) / 0.5
        blue = torch.unsqueeze(x[:, 2], 1) * (0.225 / 0.5) + (0.406 - 0.5) / 0.5
        return torch.cat((red, green, blue), 1)


class Rotate180(nn.Module):
    """A rotation of images [n, c, h, w] by 180 degrees, the first step of EfficientNet-lite."""

    def __init__(self, _: nn.Module) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(2, 3)


class PatchesToTokens(nn.Module):
    """A ViT's patches [n, d, h, w] as tokens [n, 1 + h * w, d], with the class token first."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.class_token = vit.get_parameter("class_token")

    def forward(self, x: Tensor) -> Tensor:
        patches = x.flatten(2).permute(0, 2, 1)
        return torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches], dim=1)


class AddPositionEmbedding(nn.Module):
    """The sum of tokens [n, t, d] and a ViT's learned position embedding [1, t, d]."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.pos_embedding = vit.get_parameter("encoder.pos_embedding")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pos_embedding


class TakeClassToken(nn.Module):
    """The class token [n, d] of tokens [n, t, d]."""

    def __init__(self, _: nn.Module) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]
