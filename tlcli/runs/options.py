"""What can be asked of a run."""

import math
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tlcli.artifacts.run_folder import check_free, find_bundle
from tlcli.backbones.catalogue import DEFAULT_MODEL, catalogue, find_entry
from tlcli.data.augmentation import presets
from tlcli.data.augmentation.mixup import MIXING
from tlcli.errors import UsageError, choice
from tlcli.features.cache import DEFAULT_LIMIT
from tlcli.planning.cases import CASES, LARGE_FROM, Overrides
from tlcli.planning.evidence import SAMPLE
from tlcli.planning.training_config import CHOICES, FIND, TrainingConfig
from tlcli.runtime.device import DEVICES, PRECISIONS

LOGS = ("tensorboard",)

# Lowest and highest allowed value of each number; the highest is left out where it is infinite.
_RANGES = {
    "lr": (1e-12, 1e30),
    "momentum": (0.0, 0.9999),
    "weight_decay": (0.0, 1e30),
    "epochs": (1, math.inf),
    "batch_size": (1, math.inf),
    "accumulate": (1, math.inf),
    "patience": (0, math.inf),
    "warmup": (0.0, math.inf),
    "layer_decay": (0.01, 1.0),
    "label_smoothing": (0.0, 0.99),
    "dropout": (0.0, 0.99),
    "views": (1, 64),
    "val_fraction": (0.01, 0.9),
    "sample": (20, 1_000_000),
    "large_from": (1, math.inf),
    "cache_limit": (0.0, 1e9),
    "checkpoint_minutes": (0.0, 1e9),
    "seed": (0, 2**31 - 1),
}
_WHOLE = ("epochs", "batch_size", "accumulate", "patience", "views", "seed", "sample", "large_from")
_NAMES = {
    "case": CASES,
    "size": {c.size for c in CASES.values()},
    "similarity": {c.similarity for c in CASES.values()},
    **CHOICES,
    "device": DEVICES,
    "precision": PRECISIONS,
    "log": LOGS,
}


@dataclass(frozen=True)
class Options:
    """All options of a run; None is "as the plan says".

    Attributes:
        model: a backbone's name, or a bundle (or run folder) that is trained further.
        weights: "auto", "none", a weight file, or the name of one of torchvision's weights.
        case, size, similarity, freeze: which stages are frozen; see `docs/four-cases.md`.
        optimizer, lr, momentum, weight_decay, epochs, batch_size, accumulate, lr_schedule, warmup,
            patience, metric, layer_decay, head_first, unfreeze, batchnorm, average,
            label_smoothing, dropout, balance, init: how the rest is trained; see
            `tlcli.planning.training_config.TrainingConfig`. `lr` may be "find": a range test.
        augment: a preset, transforms by name, or both: "light", "standard,vflip,rotate=30"; see
            `tlcli.data.augmentation.presets`.
        views: remembered views an image.
        val_fraction: share of the images held out where the folder has no val of its own.
        seed: of the split, the new layers, the order and the augmentation.
        calibrate: learn how sure the answers may be (docs/predict.md); takes a tenth of the
            training images where more than a linear head is trained.
        device, precision: where and in which numbers; see `tlcli.runtime.device`.
        compile: let torch.compile make the training step faster; takes a minute to begin.
        sample: training images that are measured to decide the case, at most.
        large_from: training images from which a dataset is large.
        cache: keep frozen activations on disk for the next run.
        cache_limit: what they may take, in GB.
        checkpoint_minutes: how often the state is saved within an epoch.
        log: "tensorboard": figures of each epoch for TensorBoard too, in the run folder.
        output: the run folder; None: runs/<date>-<dataset>-<backbone>.
    """

    model: str = DEFAULT_MODEL
    weights: str = "auto"
    case: str | None = None
    size: str | None = None
    similarity: str | None = None
    freeze: str | None = None
    optimizer: str | None = None
    lr: float | str | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    lr_schedule: str | None = None
    warmup: float | None = None
    patience: int | None = None
    metric: str | None = None
    layer_decay: float | None = None
    head_first: bool | None = None
    unfreeze: str | None = None
    batchnorm: str | None = None
    average: str | None = None
    label_smoothing: float | None = None
    dropout: float | None = None
    balance: str | None = None
    init: str | None = None
    augment: str | None = None
    views: int | None = None
    val_fraction: float = 0.2
    seed: int = 0
    calibrate: bool = True
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    sample: int = SAMPLE
    large_from: int = LARGE_FROM
    cache: bool = True
    cache_limit: float = DEFAULT_LIMIT / 1e9
    checkpoint_minutes: float = 5.0
    log: str | None = None
    output: Path | None = None

    def __post_init__(self) -> None:
        # From Python, a path is often a string and the other way round.
        if self.output is not None:
            object.__setattr__(self, "output", Path(self.output))
        for name in ("model", "weights"):
            object.__setattr__(self, name, str(getattr(self, name)))
        if isinstance(self.lr, str):  # as the command line and files of options have it
            with suppress(ValueError):
                object.__setattr__(self, "lr", float(self.lr))

    def given(self) -> dict[str, Any]:
        """What differs from the defaults, by name."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default}

    def check(self) -> None:
        """Make sure of all that can be told without looking at data or weights.

        Raises:
            UsageError: an unknown name, or numbers out of range; all of those are named.
            UserError: `output` holds something already.
        """
        presets.parse(self.augment or presets.DEFAULT)
        if self.model not in catalogue() and len(Path(self.model).parts) > 1:
            find_bundle(self.model)
        elif self.model in catalogue() or not Path(self.model).exists():
            find_entry(self.model)
        for name, known in _NAMES.items():
            value = getattr(self, name)
            if value is not None:
                choice(f"--{name.replace('_', '-')}", value, known)
        if isinstance(self.lr, str) and self.lr != FIND:
            raise UsageError(f"--lr {self.lr} is neither a number nor {FIND}")
        wrong = []
        for name in _WHOLE:
            value = getattr(self, name)
            if value is not None and not isinstance(value, int):
                raise UsageError(f"--{name.replace('_', '-')} {value!r} is not a whole number")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value not in (None, FIND) and not (low <= value <= high and math.isfinite(value)):
                bounds = f"from {low:g}" + (f" to {high:.10g}" if math.isfinite(high) else "")
                wrong.append(f"--{name.replace('_', '-')} {value:g} is out of range ({bounds})")
        if wrong:
            raise UsageError("; ".join(wrong))
        if self.output is not None:
            check_free(self.output)

    def wish(self) -> Overrides:
        """The part of it that the plan decides about."""
        names = {f.name for f in fields(TrainingConfig)} & {f.name for f in fields(self)}
        config = {name: getattr(self, name) for name in sorted(names)}
        mixing = ",".join(
            name for name in presets.parse(self.augment or presets.DEFAULT) if name in MIXING
        )
        mixing = f"--augment {mixing}" if mixing else ""
        return Overrides(self.case, self.size, self.similarity, self.freeze, config, mixing)
