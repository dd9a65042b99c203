"""TODO"""

from dataclasses import dataclass

UNKNOWN = "unknown"
"""The label of an image that is rejected, or whose probability is below the threshold."""


@dataclass(frozen=True)
class Prediction:
    """What the network says of one image.

    Attributes:
        path: as it was given; None for an image that came without one.
        label: the likeliest class, or "unknown"; None where the image cannot be read.
        probability: of the likeliest class, in [0, 1].
        error: why there is no answer.
        ood: how unlike the training images it is: its distance from them, over that which 95 of
            100 of theirs stay below; above 1 is flagged. None where the model has no measure.
        top: the likeliest classes with their probabilities, best first.
    """

    path: str | None
    label: str | None
    probability: float | None
    error: str | None
    ood: float | None
    top: tuple[tuple[str, float], ...]
