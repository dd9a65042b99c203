"""TODO"""

import torch
from torch import Tensor, nn


def flatten(_: nn.Module) -> nn.Module:
    """[n, c, 1, 1] to [n, c]; a larger map to one long row."""
    return nn.Flatten(1)


def pool(_: nn.Module) -> nn.Module:
    """[n, c, h, w] to [n, c, 1, 1]."""
    return nn.AdaptiveAvgPool2d((1, 1))


def relu(_: nn.Module) -> nn.Module:
    """In place, as DenseNet has it after its last norm."""
    return nn.ReLU(inplace=True)


class Mean(nn.Module):
    """[n, c, h, w] to [n, c]. Other bits than pooling has: MNASNet and ShuffleNet use it."""

    def __init__(self, _: nn.Module) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


class InceptionInput(nn.Module):
    """ImageNet's normalisation to mean 0.5, std 0.5, which GoogLeNet and Inception begin with."""

    def __init__(self, _: nn.Module) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        red = torch.unsqueeze(x[:, 0], 1) * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
        green = torch.unsqueeze(x[:, 1], 1) * (0.224 / 0.5) + (0.456 - 0.5) / 0.5
        blue = torch.unsqueeze(x[:, 2], 1) * (0.225 / 0.5) + (0.406 - 0.5) / 0.5
        return torch.cat((red, green, blue), 1)


class Turn(nn.Module):
    """[n, c, h, w] turned by 180 degrees, as EfficientNet-lite0 sees its images."""

    def __init__(self, _: nn.Module) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(2, 3)


class ToTokens(nn.Module):
    """A ViT's patches [n, d, h, w] to tokens [n, 1 + h * w, d], the class token first."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.class_token = vit.get_parameter("class_token")

    def forward(self, x: Tensor) -> Tensor:
        patches = x.flatten(2).permute(0, 2, 1)
        return torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches], dim=1)


class AddPositions(nn.Module):
    """Tokens [n, t, d] plus their learned positions [1, t, d]."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.pos_embedding = vit.get_parameter("encoder.pos_embedding")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pos_embedding


class ClassToken(nn.Module):
    """Tokens [n, t, d] to the class token [n, d]."""

    def __init__(self, _: nn.Module) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]
