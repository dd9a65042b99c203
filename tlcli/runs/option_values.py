"""The types of all options of a run, for editors and type checkers.

Made by `python -m docs.make` from tlcli/runs/options.py; do not edit. A name is one of the
`Literal`s, which editors offer, or any `str`, so that it may be in a variable.
"""

from pathlib import Path
from typing import Literal, TypedDict


class OptionValues(TypedDict, total=False):
    """Options of a run by name, as `tlcli.finetune` and `tlcli.plan` take them."""

    # Model
    model: str | Path
    """Backbone to fine-tune (`tlcli models` lists them), or a bundle or run folder to train
    further. [default: efficientnet_lite0]"""
    weights: str | Path
    """Pretrained weights: auto, none (train from scratch), a .safetensors, .pt or .pth file, or a
    name of torchvision's such as IMAGENET1K_V1. [default: auto]"""

    # Case (what is frozen)
    case: (
        Literal["small-similar", "small-different", "large-similar", "large-different"] | str | None
    )
    """Transfer-learning case. [default: chosen by the plan; one of small-similar, small-different,
    large-similar, large-different]"""
    size: Literal["small", "large"] | str | None
    """Size of the dataset: the first half of a case. [default: chosen by the plan; one of small,
    large]"""
    similarity: Literal["similar", "different"] | str | None
    """Similarity to the pretraining images: the second half of a case. [default: chosen by the
    plan; one of similar, different]"""
    freeze: str | None
    """Last stage to freeze (`tlcli models NAME` lists the stages), or features, all-but-head or
    none. [default: chosen by the plan]"""
    sample: int
    """Maximum number of training images measured to choose the case. [default: 1000; 20 to
    1,000,000]"""
    large_from: int
    """Training images from which a dataset counts as large. [default: 10000; 1 or more]"""

    # Training
    optimizer: Literal["lbfgs", "sgd", "adamw"] | str | None
    """Optimizer; lbfgs fits a linear head only. [default: chosen by the plan; one of lbfgs, sgd,
    adamw]"""
    lr: float | str | None
    """Learning rate, or find to measure one with a range test. [default: chosen by the plan; above
    0 or find]"""
    momentum: float | None
    """Momentum of SGD. [default: chosen by the plan; 0 to 0.9999]"""
    weight_decay: float | None
    """Weight decay; biases and norms have none. [default: chosen by the plan; 0 or more]"""
    epochs: int | str | None
    """Number of epochs; with --resume, +10 adds ten. [default: chosen by the plan; 1 or more]"""
    batch_size: int | None
    """Images per batch. [default: chosen by the plan; 1 or more]"""
    accumulate: int | None
    """Batches whose gradients are added up for each step. [default: chosen by the plan; 1 or
    more]"""
    lr_schedule: Literal["cosine", "linear", "one-cycle", "constant"] | str | None
    """Learning rate schedule. [default: chosen by the plan; one of cosine, linear, one-cycle,
    constant]"""
    warmup: float | None
    """Epochs in which the learning rate rises to its full value. [default: chosen by the plan; 0 or
    more]"""
    patience: int | None
    """Epochs without a better validation metric before training stops; 0 never stops early.
    [default: chosen by the plan; 0 or more]"""
    metric: Literal["top1", "loss", "balanced_accuracy", "macro_f1"] | str | None
    """Metric that selects the best epoch. [default: chosen by the plan; one of top1, loss,
    balanced_accuracy, macro_f1]"""
    layer_decay: float | None
    """Factor on the learning rate from each stage to the stage before it. [default: chosen by the
    plan; 0.01 to 1]"""
    head_first: bool | None
    """Train the head alone on frozen features before the rest. [default: chosen by the plan]"""
    unfreeze: Literal["all", "gradual"] | str | None
    """Train all stages behind the cut from the first epoch, or gradually from the head backwards.
    [default: chosen by the plan; one of all, gradual]"""
    batchnorm: Literal["adapt", "frozen"] | str | None
    """BatchNorm statistics of the trained stages: adapt to the images or stay frozen. [default:
    chosen by the plan; one of adapt, frozen]"""
    average: Literal["none", "ema", "swa"] | str | None
    """Weight averaging: exponential moving average (ema) or stochastic weight averaging (swa).
    [default: chosen by the plan; one of none, ema, swa]"""
    label_smoothing: float | None
    """Share of each label that is spread over all classes. [default: chosen by the plan; 0 to
    0.99]"""
    dropout: float | None
    """Dropout before the final layer. [default: chosen by the plan; 0 to 0.99]"""
    balance: Literal["none", "weights", "sampler"] | str | None
    """Compensation for unequal class sizes: weights in the loss, or a sampler that draws every
    class equally often. [default: chosen by the plan; one of none, weights, sampler]"""
    init: Literal["default", "uniform", "normal"] | str | None
    """Initialization of new layers: the layer's default, Glorot uniform, or normal with standard
    deviation 0.01. [default: chosen by the plan; one of default, uniform, normal]"""
    calibrate: bool
    """Calibrate the probabilities. Unless only a linear head is trained, a tenth of the training
    images is held out for this. [default: on]"""

    # Data and augmentation
    augment: str | None
    """Augmentation: a preset (none, light, standard, strong), transforms by name, or both as in
    light,vflip,rotate=30; docs/augmentation.md lists them. [default: chosen by the plan]"""
    views: int | None
    """Number of views cached per image: the plain image, then augmented views. [default: chosen by
    the plan; 1 to 64]"""
    val_fraction: float
    """Share of the images held out for validation if there is no val/ folder. [default: 0.2; 0.01
    to 0.9]"""
    seed: int
    """Seed for every random draw. [default: 0; 0 or more]"""

    # Device and cache
    device: Literal["auto", "cpu", "cuda", "mps"] | str
    """Device to compute on. [default: auto; one of auto, cpu, cuda, mps]"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] | str
    """Precision of training and of frozen features; auto is mixed precision on CUDA and on CPUs
    with native bf16, else fp32. All metrics are computed in fp32. [default: auto; one of auto,
    fp32, bf16, fp16]"""
    compile: bool
    """Speed up with torch.compile after about a minute of compilation. Pays off from about 50,000
    images; needs a C++ compiler. [default: off]"""
    cache: bool
    """Keep frozen features on disk for later runs. [default: on]"""
    cache_limit: float
    """Size limit of the feature cache in GB; the least recently used features are deleted first.
    [default: 8; 0 or more]"""

    # Run
    checkpoint_minutes: float
    """Minutes between checkpoints within an epoch; every epoch also ends with one. [default: 5; 0
    or more]"""
    log: Literal["tensorboard"] | str | None
    """Also log each epoch for TensorBoard. [default: off; or tensorboard]"""
    output: str | Path | None
    """Run folder to create. [default: runs/<date>-<data>-<model>]"""
