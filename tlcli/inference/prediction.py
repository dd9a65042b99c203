"""Predictions: of one image, as a caller reads them, and of a batch, as a classifier makes them."""

from dataclasses import dataclass

from torch import Tensor

UNKNOWN = "unknown"
"""The label of an image that is rejected, or whose probability is below the threshold."""


@dataclass(frozen=True)
class Prediction:
    """The predicted class of one image.

    Attributes:
        path: the image's path as it was given; None for an image that came without one.
        label: the most probable class, or "unknown"; None where the image cannot be read.
        probability: probability of the most probable class, in [0, 1].
        error: why there is no prediction.
        ood: distance from the training images, divided by the distance that 95% of them stay
            below. Above 1 the image is unlike them. None where the model cannot measure it.
        top: the most probable classes with their probabilities, best first.
    """

    path: str | None
    label: str | None
    probability: float | None
    error: str | None
    ood: float | None
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class PredictionBatch:
    """Probabilities of a batch of images.

    Attributes:
        paths: the n images' paths; None for an image that came without one.
        probabilities: float32 [n, classes], on the CPU; meaningless for an unreadable image.
        ood: float32 [n], or None; see `Prediction`.
        problems: for each image None, or why there is no prediction.
    """

    paths: list[str | None]
    probabilities: Tensor
    ood: Tensor | None
    problems: list[str | None]
