"""LeNet-5 (LeCun, Bottou, Bengio and Haffner, 1998), for colour images."""

from torch import Tensor, nn


class LeNet5(nn.Module):
    """The network of 1998 for float32 [n, 3, 32, 32]; logits [n, num_classes].

    As is usual today: three input channels, every map of C3 sees all of S2's, average pooling
    without trained coefficients, and a linear output layer instead of distances to drawn digits.
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
