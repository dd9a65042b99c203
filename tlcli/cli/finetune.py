"""tlcli finetune."""

from pathlib import Path

import typer

from tlcli.cli.caching import CACHE, CACHE_LIMIT

TRAINING = "How it is trained (left out: as the plan says)"
CUT = "What is frozen"


def command(
    data: Path = typer.Argument(
        ...,
        metavar="DIR",
        help="A folder with a sub-folder for each class, or with train/ and val/ of that form.",
    ),
    model: str = typer.Option(
        "efficientnet_lite0", "--model", "-m", help="A backbone; tlcli models lists them."
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
    lr: float = typer.Option(None, help="Learning rate.", rich_help_panel=TRAINING),
    momentum: float = typer.Option(None, help="SGD's momentum.", rich_help_panel=TRAINING),
    weight_decay: float = typer.Option(None, help="Weight decay.", rich_help_panel=TRAINING),
    epochs: int = typer.Option(None, help="Passes over the images.", rich_help_panel=TRAINING),
    batch_size: int = typer.Option(None, help="Images a batch.", rich_help_panel=TRAINING),
    accumulate: int = typer.Option(
        None, help="Batches whose gradients make one step.", rich_help_panel=TRAINING
    ),
    lr_schedule: str = typer.Option(None, help="cosine or constant.", rich_help_panel=TRAINING),
    patience: int = typer.Option(
        None,
        help="Stop after so many epochs without a better validation accuracy; 0: never.",
        rich_help_panel=TRAINING,
    ),
    init: str = typer.Option(
        None,
        help="New layers: default (the layer's own), uniform (Glorot) or normal (deviation 0.01).",
        rich_help_panel=TRAINING,
    ),
    augment: str = typer.Option(
        "light", help="light (flip, random resized crop, rotation) or none."
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
        "auto", help="auto, fp32, bf16 or fp16; auto is mixed precision on CUDA, else fp32."
    ),
    sample: int = typer.Option(
        1000, help="Training images that are measured to decide the case, at most."
    ),
    large_from: int = typer.Option(
        10_000, help="Training images from which a dataset counts as large."
    ),
    cache: bool = CACHE,
    cache_limit: float = CACHE_LIMIT,
    output: Path = typer.Option(
        None, "--output", "-o", help="The run folder.", show_default="runs/<date>-<data>-<model>"
    ),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Only warnings and the result."),
) -> None:
    """Train a classifier on a folder of images."""
    options = {k: v for k, v in locals().items() if k not in ("data", "quiet")}
    from tlcli.cli.terminal import Terminal
    from tlcli.data.names import shown
    from tlcli.recipes.finetune import finetune
    from tlcli.recipes.options import Options
    from tlcli.transfer.distributed import speaks
    from tlcli.transfer.metrics import accuracy_text

    with Terminal(quiet) as terminal:
        run = finetune(data, Options(**options), reporter=terminal)
    if not speaks():
        return
    typer.echo(f"val accuracy {accuracy_text(run.metrics)}", err=True)
    if "test" in run.metrics:
        typer.echo(f"test accuracy {accuracy_text(run.metrics['test'])}", err=True)
    if run.status == "interrupted":
        typer.echo(f"interrupted; the best so far is saved in {shown(str(run.folder))}", err=True)
    typer.echo(run.bundle)
    if run.status == "interrupted":
        raise typer.Exit(130)
