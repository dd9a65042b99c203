"""The options of a run: one table that flags, files of options, checks and docs are made from.

A new option is one more field of `Options`. Importing this module imports no torch.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, get_args, get_type_hints

from tlcli.backbones.catalogue import DEFAULT_MODEL, catalogue, find_entry
from tlcli.data.augmentation import presets
from tlcli.planning.cases import CASES, LARGE_FROM, SAMPLE_SIZE, Overrides
from tlcli.planning.training_config import CHOICES, FIND_LR, TrainingConfig
from tlcli.runs.option_spec import OptionSpec, check_values, option
from tlcli.runtime.choices import DEVICES, PRECISIONS

# The headings of `--help` and of the docs.
_MODEL = "Model"
_CASE = "Case (what is frozen)"
_TRAINING = "Training"
_DATA = "Data and augmentation"
_MACHINE = "Device and cache"
RUN_GROUP = "Run"
GROUPS = (_MODEL, _CASE, _TRAINING, _DATA, _MACHINE, RUN_GROUP)


# fmt: off
@dataclass(frozen=True)
class Options:
    """All options of a run. None leaves the choice to the plan.

    Each field carries its description; docs/reference/cli.md shows them all. The papers behind the
    training options are named in `tlcli.planning.training_config.TrainingConfig`.
    """

    model: str = option(
        DEFAULT_MODEL, "Backbone to fine-tune (`tlcli models` lists them), or a bundle or run "
        "folder to train further.", _MODEL, short="-m", metavar="NAME", names_file=True)
    weights: str = option(
        "auto", "Pretrained weights: auto, none (train from scratch), a .safetensors, .pt or .pth "
        "file, or a name of torchvision's such as IMAGENET1K_V1.", _MODEL, metavar="NAME",
        names_file=True)
    case: str | None = option(None, "Transfer-learning case.", _CASE, choices=CASES)
    size: str | None = option(
        None, "Size of the dataset: the first half of a case.", _CASE,
        choices=dict.fromkeys(case.size for case in CASES.values()))
    similarity: str | None = option(
        None, "Similarity to the pretraining images: the second half of a case.", _CASE,
        choices=dict.fromkeys(case.similarity for case in CASES.values()))
    freeze: str | None = option(
        None, "Last stage to freeze (`tlcli models NAME` lists the stages), or features, "
        "all-but-head or none.", _CASE, metavar="STAGE")
    optimizer: str | None = option(
        None, "Optimizer; lbfgs fits a linear head only.", _TRAINING, choices=CHOICES["optimizer"])
    lr: float | str | None = option(
        None, "Learning rate, or find to measure one with a range test.", _TRAINING,
        low=1e-12, high=1e30, words=(FIND_LR,))
    momentum: float | None = option(None, "Momentum of SGD.", _TRAINING, low=0.0, high=0.9999)
    weight_decay: float | None = option(
        None, "Weight decay; biases and norms have none.", _TRAINING, low=0.0, high=1e30)
    epochs: int | None = option(
        None, "Number of epochs; with --resume, +10 adds ten.", _TRAINING, low=1, flag_is_text=True)
    batch_size: int | None = option(None, "Images per batch.", _TRAINING, low=1)
    accumulate: int | None = option(
        None, "Batches whose gradients are added up for each step.", _TRAINING, low=1)
    lr_schedule: str | None = option(
        None, "Learning rate schedule.", _TRAINING, choices=CHOICES["lr_schedule"])
    warmup: float | None = option(
        None, "Epochs in which the learning rate rises to its full value.", _TRAINING, low=0.0)
    patience: int | None = option(
        None, "Epochs without a better validation metric before training stops; 0 never stops "
        "early.", _TRAINING, low=0)
    metric: str | None = option(
        None, "Metric that selects the best epoch.", _TRAINING, choices=CHOICES["metric"])
    layer_decay: float | None = option(
        None, "Factor on the learning rate from each stage to the stage before it.", _TRAINING,
        low=0.01, high=1.0)
    head_first: bool | None = option(
        None, "Train the head alone on frozen features before the rest.", _TRAINING)
    unfreeze: str | None = option(
        None, "Train all stages behind the cut from the first epoch, or gradually from the head "
        "backwards.", _TRAINING, choices=CHOICES["unfreeze"])
    batchnorm: str | None = option(
        None, "BatchNorm statistics of the trained stages: adapt to the images or stay frozen.",
        _TRAINING, choices=CHOICES["batchnorm"])
    average: str | None = option(
        None, "Weight averaging: exponential moving average (ema) or stochastic weight averaging "
        "(swa).", _TRAINING, choices=CHOICES["average"])
    label_smoothing: float | None = option(
        None, "Share of each label that is spread over all classes.", _TRAINING, low=0.0, high=0.99)
    dropout: float | None = option(
        None, "Dropout before the final layer.", _TRAINING, low=0.0, high=0.99)
    balance: str | None = option(
        None, "Compensation for unequal class sizes: weights in the loss, or a sampler that draws "
        "every class equally often.", _TRAINING, choices=CHOICES["balance"])
    init: str | None = option(
        None, "Initialization of new layers: the layer's default, Glorot uniform, or normal with "
        "standard deviation 0.01.", _TRAINING, choices=CHOICES["init"])
    augment: str | None = option(
        None, f"Augmentation: a preset ({', '.join(presets.PRESETS)}), transforms by name, or both "
        "as in light,vflip,rotate=30; docs/augmentation.md lists them.", _DATA, metavar="TEXT")
    views: int | None = option(
        None, "Number of views cached per image: the plain image, then augmented views.", _DATA,
        low=1, high=64)
    val_fraction: float = option(
        0.2, "Share of the images held out for validation if there is no val/ folder.", _DATA,
        low=0.01, high=0.9)
    seed: int = option(0, "Seed for every random draw.", _DATA, low=0, high=2**31 - 1)
    calibrate: bool = option(
        True, "Calibrate the probabilities. Unless only a linear head is trained, a tenth of the "
        "training images is held out for this.", _TRAINING)
    device: str = option("auto", "Device to compute on.", _MACHINE, choices=DEVICES)
    precision: str = option(
        "auto", "Precision of training and of frozen features; auto is mixed precision on CUDA and "
        "on CPUs with native bf16, else fp32. All metrics are computed in fp32.", _MACHINE,
        choices=PRECISIONS)
    compile: bool = option(
        False, "Speed up with torch.compile after about a minute of compilation. Pays off from "
        "about 50,000 images; needs a C++ compiler.", _MACHINE)
    sample: int = option(
        SAMPLE_SIZE, "Maximum number of training images measured to choose the case.", _CASE,
        low=20, high=1_000_000)
    large_from: int = option(
        LARGE_FROM, "Training images from which a dataset counts as large.", _CASE, low=1)
    cache: bool = option(True, "Keep frozen features on disk for later runs.", _MACHINE)
    cache_limit: float = option(
        8.0, "Size limit of the feature cache in GB; the least recently used features are deleted "
        "first.", _MACHINE, low=0.0, high=1e9)
    checkpoint_minutes: float = option(
        5.0, "Minutes between checkpoints within an epoch; every epoch also ends with one.",
        RUN_GROUP, low=0.0, high=1e9)
    log: str | None = option(
        None, "Also log each epoch for TensorBoard.", RUN_GROUP, choices=("tensorboard",),
        default_text="off")
    output: Path | None = option(
        None, "Run folder to create.", RUN_GROUP, short="-o", names_file=True,
        default_text="runs/<date>-<data>-<model>")
    # fmt: on

    def __post_init__(self) -> None:
        # From Python, a path is often a string and the other way round.
        if self.output is not None:
            object.__setattr__(self, "output", Path(self.output))
        for name in ("model", "weights"):
            object.__setattr__(self, name, str(getattr(self, name)))
        if isinstance(self.lr, str):  # the command line and files of options have it as text
            with suppress(ValueError):
                object.__setattr__(self, "lr", float(self.lr))

    def values(self) -> dict[str, Any]:
        """Return all options by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def non_default(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, by name."""
        return {k: v for k, v in self.values().items() if v != OPTION_TABLE[k].default}

    def check(self) -> None:
        """Check everything that can be checked without reading data or weights.

        Raises:
            UsageError: an unknown name, or numbers out of range; all of those are named.
            UserError: `output` is not empty, or `model` is a path without a bundle.
        """
        from tlcli.artifacts.run_folder import check_free, find_bundle  # imports torch

        presets.parse_augment(self.augment or presets.DEFAULT_PRESET)
        if self.model not in catalogue() and len(Path(self.model).parts) > 1:
            find_bundle(self.model)
        elif self.model in catalogue() or not Path(self.model).exists():
            find_entry(self.model)
        check_values(OPTION_TABLE, self.values())
        if self.output is not None:
            check_free(self.output)

    def overrides(self) -> Overrides:
        """Return the options that override parts of the plan."""
        from tlcli.data.augmentation.mixup import MIXING_TRANSFORMS  # imports torch

        names = {f.name for f in fields(TrainingConfig)} & self.values().keys()
        config = {name: getattr(self, name) for name in sorted(names)}
        transforms = presets.parse_augment(self.augment or presets.DEFAULT_PRESET)
        mixing = ",".join(name for name in transforms if name in MIXING_TRANSFORMS)
        mixing = f"--augment {mixing}" if mixing else ""
        return Overrides(self.case, self.size, self.similarity, self.freeze, config, mixing)


def _option_table() -> Mapping[str, OptionSpec]:
    """Read the descriptions of all options from the fields of `Options`."""
    hints = get_type_hints(Options)
    table = {}
    for f in fields(Options):
        types = tuple(t for t in get_args(hints[f.name]) or (hints[f.name],) if t is not NoneType)
        table[f.name] = replace(f.metadata["spec"], name=f.name, types=types)
    return MappingProxyType(table)


OPTION_TABLE: Mapping[str, OptionSpec] = _option_table()
"""The description of each option by name."""
