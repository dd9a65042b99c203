"""What can be asked of a run."""

import math
from dataclasses import dataclass, fields
from pathlib import Path

from tlcli.backbones.catalogue import DEFAULT_MODEL
from tlcli.errors import UsageError
from tlcli.transfer.plan import Wish
from tlcli.transfer.schedule import Schedule

# Lowest and highest allowed value of each number; the highest is left out where it is infinite.
_RANGES = {
    "lr": (1e-12, math.inf),
    "momentum": (0.0, 0.9999),
    "weight_decay": (0.0, math.inf),
    "epochs": (1, math.inf),
    "batch_size": (1, math.inf),
    "accumulate": (1, math.inf),
    "patience": (0, math.inf),
    "views": (1, 64),
    "val_fraction": (0.01, 0.9),
    "seed": (0, 2**31 - 1),
}


@dataclass(frozen=True)
class Options:
    """All options of a run; None is "as the plan says".

    Attributes:
        model: a backbone's name.
        weights: "auto", "none", a weight file, or the name of one of torchvision's weights.
        case, size, similarity, freeze: which stages are frozen; see `docs/four-cases.md`.
        optimizer, lr, momentum, weight_decay, epochs, batch_size, accumulate, lr_schedule,
            patience, init: how the rest is trained; see `tlcli.transfer.schedule.Schedule`.
        augment: "light" or "none".
        views: remembered views an image.
        val_fraction: share of the images held out where the folder has no val of its own.
        seed: of the split, the new layers, the order and the augmentation.
        device, precision: where and in which numbers; see `tlcli.transfer.device`.
        output: the run folder; None: runs/<date>-<dataset>-<backbone>.
    """

    model: str = DEFAULT_MODEL
    weights: str = "auto"
    case: str | None = None
    size: str | None = None
    similarity: str | None = None
    freeze: str | None = None
    optimizer: str | None = None
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    lr_schedule: str | None = None
    patience: int | None = None
    init: str | None = None
    augment: str = "light"
    views: int | None = None
    val_fraction: float = 0.2
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    output: Path | None = None

    def check(self) -> None:
        """Make sure of the numbers.

        Raises:
            UsageError: some are out of range; all of them are named.
        """
        wrong = []
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not (low <= value <= high and math.isfinite(value)):
                bounds = f"from {low:g}" + (f" to {high:g}" if math.isfinite(high) else "")
                wrong.append(f"--{name.replace('_', '-')} {value:g} is out of range ({bounds})")
        if wrong:
            raise UsageError("; ".join(wrong))

    def wish(self) -> Wish:
        """The part of it that the plan decides about."""
        names = {f.name for f in fields(Schedule)} & {f.name for f in fields(self)}
        schedule = {name: getattr(self, name) for name in sorted(names)}
        return Wish(self.case, self.size, self.similarity, self.freeze, schedule)
