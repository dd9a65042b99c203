"""tlcli finetune."""

from pathlib import Path

import typer

from tlcli.cli.flags import CACHE, CACHE_LIMIT
from tlcli.cli.signals import is_given, stoppable

TRAINING = "How it is trained (left out: as the plan says)"
CUT = "What is frozen"
GOING_ON = "Going on, and options in a file"
_NOT_OPTIONS = ("context", "data", "config", "resume", "quiet")


def command(
    context: typer.Context,
    data: Path = typer.Argument(
        None,
        metavar="DIR",
        help="A folder with a sub-folder for each class, or with train/ and val/ of that form; "
        "with --resume or --config it may be left out.",
        show_default=False,
    ),
    model: str = typer.Option(
        "efficientnet_lite0",
        "--model",
        "-m",
        help="A backbone (tlcli models lists them), or a bundle or run folder to train further.",
    ),
    weights: str = typer.Option(
        "auto",
        help="auto, none (train from scratch), a .safetensors/.pt/.pth file, or the name of one "
        "of torchvision's weights, such as IMAGENET1K_V1.",
    ),
    case: str = typer.Option(
        None,
        help="small-similar, small-different, large-similar or large-different.",
        rich_help_panel=CUT,
    ),
    size: str = typer.Option(None, help="small or large: half of a case.", rich_help_panel=CUT),
    similarity: str = typer.Option(
        None, help="similar or different: the other half.", rich_help_panel=CUT
    ),
    freeze: str = typer.Option(
        None,
        help="Set the cut by hand: features, all-but-head, none, or the last stage to freeze "
        "(tlcli models NAME lists the stages).",
        rich_help_panel=CUT,
    ),
    optimizer: str = typer.Option(
        None, help="adamw, sgd, or lbfgs (for a linear head alone).", rich_help_panel=TRAINING
    ),
    lr: str = typer.Option(
        None, help="Learning rate, or find: a range test measures it.", rich_help_panel=TRAINING
    ),
    momentum: float = typer.Option(None, help="SGD's momentum.", rich_help_panel=TRAINING),
    weight_decay: float = typer.Option(None, help="Weight decay.", rich_help_panel=TRAINING),
    epochs: str = typer.Option(
        None,
        metavar="INTEGER",
        help="Passes over the images; with --resume, +10 adds ten.",
        rich_help_panel=TRAINING,
    ),
    batch_size: int = typer.Option(None, help="Images a batch.", rich_help_panel=TRAINING),
    accumulate: int = typer.Option(
        None, help="Batches whose gradients make one step.", rich_help_panel=TRAINING
    ),
    lr_schedule: str = typer.Option(
        None, help="cosine, linear, one-cycle or constant.", rich_help_panel=TRAINING
    ),
    warmup: float = typer.Option(
        None, help="Epochs in which the learning rate rises.", rich_help_panel=TRAINING
    ),
    patience: int = typer.Option(
        None,
        help="Stop after so many epochs without a better validation accuracy; 0: never.",
        rich_help_panel=TRAINING,
    ),
    metric: str = typer.Option(
        None,
        help="By which the best epoch is told: top1, loss, balanced_accuracy or macro_f1.",
        rich_help_panel=TRAINING,
    ),
    layer_decay: float = typer.Option(
        None,
        help="Each earlier stage takes this share of its successor's learning rate.",
        rich_help_panel=TRAINING,
    ),
    head_first: bool = typer.Option(
        None,
        "--head-first/--no-head-first",
        help="Fit the head alone on frozen codes before the rest is trained.",
        rich_help_panel=TRAINING,
    ),
    unfreeze: str = typer.Option(
        None,
        help="all, or gradual: from the head backwards, epoch by epoch.",
        rich_help_panel=TRAINING,
    ),
    batchnorm: str = typer.Option(
        None,
        help="Statistics of the trained stages: adapt to the images, or stay frozen.",
        rich_help_panel=TRAINING,
    ),
    average: str = typer.Option(
        None, help="Keep averaged weights: ema, swa or none.", rich_help_panel=TRAINING
    ),
    label_smoothing: float = typer.Option(
        None, help="Share of each label that goes to all classes.", rich_help_panel=TRAINING
    ),
    dropout: float = typer.Option(
        None, help="Share of the codes left out before the final layer.", rich_help_panel=TRAINING
    ),
    balance: str = typer.Option(
        None,
        help="Unequal classes: weights (in the loss), sampler (drawn equally often) or none.",
        rich_help_panel=TRAINING,
    ),
    init: str = typer.Option(
        None,
        help="New layers: default (the layer's own), uniform (Glorot) or normal (deviation 0.01).",
        rich_help_panel=TRAINING,
    ),
    augment: str = typer.Option(
        None,
        help="none, light, standard or strong, and transforms by name, as light,vflip,rotate=30 "
        "(docs/augmentation.md lists them).",
        rich_help_panel=TRAINING,
    ),
    views: int = typer.Option(
        None, help="Views an image that the frozen stages remember: a plain one, others augmented."
    ),
    val_fraction: float = typer.Option(
        0.2, help="Share of the images held out, where the folder has no val/."
    ),
    seed: int = typer.Option(0, help="Of everything that is drawn."),
    calibrate: bool = typer.Option(
        True,
        help="Learn how sure answers may be; keeps a tenth of the training images aside where more "
        "than a linear head is trained (--no-calibrate does not).",
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda or mps."),
    precision: str = typer.Option(
        "auto",
        help="auto, fp32, bf16 or (CUDA) fp16; auto is mixed precision on CUDA and on CPUs that "
        "have bf16, else fp32. Metrics are of fp32.",
    ),
    compile: bool = typer.Option(
        False,
        "--compile",
        help="Let torch.compile make the frozen forward and training faster, after a "
        "minute of compiling: pays from some 50,000 images. Needs a C++ compiler.",
    ),
    sample: int = typer.Option(
        1000, help="Training images that are measured to decide the case, at most."
    ),
    large_from: int = typer.Option(
        10_000, help="Training images from which a dataset counts as large."
    ),
    resume: Path = typer.Option(
        None,
        metavar="RUN",
        help="Go on with the run in this folder where it was stopped.",
        rich_help_panel=GOING_ON,
    ),
    checkpoint_minutes: float = typer.Option(
        5.0,
        help="How often the state is saved within an epoch; it is after each epoch anyway.",
        rich_help_panel=GOING_ON,
    ),
    config: Path = typer.Option(
        None,
        metavar="FILE",
        help="Options in a TOML file, such as a run's options.toml; those given here win.",
        rich_help_panel=GOING_ON,
    ),
    log: str = typer.Option(None, help="tensorboard: each epoch's figures for TensorBoard too."),
    cache: bool = CACHE,
    cache_limit: float = CACHE_LIMIT,
    output: Path = typer.Option(
        None, "--output", "-o", help="The run folder.", show_default="runs/<date>-<data>-<model>"
    ),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Only warnings and the result."),
) -> None:
    """Train a classifier on a folder of images."""
    values = {k: v for k, v in locals().items() if k not in _NOT_OPTIONS}
    from tlcli.cli.progress import Terminal
    from tlcli.metrics.metrics import Metrics, accuracy_text
    from tlcli.recipes.finetune import finetune
    from tlcli.runtime.distributed.process_group import launched_as_rank0
    from tlcli.text import printable

    given = {k: v for k, v in values.items() if is_given(context, k)}
    with Terminal(quiet) as terminal, stoppable() as stop:
        run = finetune(data, config=config, resume=resume, reporter=terminal, **given)
    if not launched_as_rank0():
        return
    metrics = Metrics.from_dict(run.metrics)
    typer.echo(f"val accuracy {accuracy_text(metrics)}", err=True)
    if metrics.test is not None:
        typer.echo(f"test accuracy {accuracy_text(metrics.test)}", err=True)
    if run.status == "interrupted":
        where = printable(str(run.folder))
        typer.echo(f"interrupted; the best so far is saved in {where}", err=True)
        typer.echo(f"tlcli finetune --resume {where} goes on", err=True)
    typer.echo(run.bundle)
    if run.status == "interrupted":
        raise typer.Exit(stop.code)
