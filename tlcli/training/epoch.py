"""One epoch of a training: its row in the history, how far it is, and how it may fail."""

from dataclasses import dataclass, field

from tlcli.planning.json_fields import stored_as

HistoryRow = dict[str, float | int | str | None]
"""The figures of an epoch by the columns of history.csv."""


class Diverged(Exception):
    """The loss became NaN or infinite; the text says where."""


@dataclass
class PartialEpoch:
    """The finished part of an epoch.

    Attributes:
        lr: the learning rate that the epoch began with.
        batches, images: the numbers that are done.
        loss: the sum of their losses.
        correct: the number of correct predictions.
    """

    lr: float
    batches: int = 0
    images: int = 0
    loss: float = 0.0
    correct: float = field(default=0.0, metadata=stored_as("right"))
