"""LeNet-5 (LeCun, Bottou, Bengio and Haffner, 1998), for color images."""

from torch import Tensor, nn

from tlcli.backbones.family import OwnModel
from tlcli.data.preprocessing import Preprocessing


class LeNet5(nn.Module):
    """LeNet-5 for float32 [n, 3, 32, 32]; returns logits [n, num_classes].

    It differs from the paper as is usual today: it has three input channels, every map of C3 sees
    all of S2's maps, average pooling has no trained coefficients, and the output layer is linear
    instead of measuring distances to drawn digits.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, kernel_size=5),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5),
            nn.Tanh(),
            nn.AvgPool2d(2),
        )
        self.flatten = nn.Flatten(1)
        self.classifier = nn.Sequential(
            nn.Linear(16 * 5 * 5, 120),
            nn.Tanh(),
            nn.Linear(120, 84),
            nn.Tanh(),
            nn.Linear(84, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.flatten(self.features(images)))
        return logits


_HALF = (0.5, 0.5, 0.5)
LENET5 = OwnModel(LeNet5, Preprocessing(32, 32, "bilinear", _HALF, _HALF), n_classes=10)
