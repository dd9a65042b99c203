"""tlcli plan."""

from pathlib import Path

import typer

from tlcli.backbones.catalogue import DEFAULT_MODEL
from tlcli.cli import output
from tlcli.cli.flags import CACHE, CACHE_LIMIT
from tlcli.errors import UsageError

COLUMNS = (
    "case",
    "size",
    "similarity",
    "cut",
    "trained",
    "why",
    "evidence",
    "forecast_s",
    "backbone",
    "dropped",
    "override",
    "runner_up",
    "schedule",
    "otherwise",
    "images",
    "seed",
)
COMPARED = (
    "backbone",
    "accuracy",
    "accuracy_error",
    "stage",
    "images_per_s",
    "size_mb",
    "case",
    "runner_up",
)


def command(
    data: Path = typer.Argument(
        ...,
        metavar="DIR",
        help="A folder with a sub-folder for each class, or with train/ and val/ of that form.",
    ),
    model: str = typer.Option(
        DEFAULT_MODEL, "--model", "-m", help="A backbone; tlcli models lists them."
    ),
    weights: str = typer.Option("auto", help="Weights of the backbone; as in finetune."),
    compare: str = typer.Option(
        None,
        metavar="NAME,NAME,...",
        help="Backbones to compare on the same images instead, the best first; NAME=FILE names "
        "a weight file.",
    ),
    case: str = typer.Option(None, help="Plan this case; the evidence is measured all the same."),
    size: str = typer.Option(None, help="small or large: half of a case."),
    similarity: str = typer.Option(None, help="similar or different: the other half."),
    freeze: str = typer.Option(None, help="Set the cut by hand; as in finetune."),
    sample: int = typer.Option(1000, help="Training images to look at, at most."),
    large_from: int = typer.Option(
        10_000, help="Training images from which a dataset counts as large."
    ),
    val_fraction: float = typer.Option(
        0.2, help="Share of the images held out, where the folder has no val/."
    ),
    seed: int = typer.Option(0, help="Of the split, the sample and the folds."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or mps."),
    cache: bool = CACHE,
    cache_limit: float = CACHE_LIMIT,
    format_name: str = output.FORMAT,
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Only warnings and the result."),
) -> None:
    """Measure a folder of images: which of the four cases it is, and why. Trains nothing."""
    given = ("data", "compare", "format_name", "quiet")
    options = {k: v for k, v in locals().items() if k not in given and k != "given"}
    from tlcli.cli.progress import Terminal
    from tlcli.recipes import plan as comparing
    from tlcli.runs.options import Options

    format_name = output.resolve(format_name)
    names = None if compare is None else compare.split(",")
    if names is not None and (model != DEFAULT_MODEL or weights != "auto"):
        raise UsageError(
            "--compare names the backbones itself", "leave out --model and --weights; NAME=FILE"
        )
    with Terminal(quiet) as terminal:
        plans = comparing.compare_backbones(data, names, Options(**options), reporter=terminal)
    if format_name == "table":
        from tlcli.cli import plan_table

        output.send(lambda out: plan_table.show(plans, names is not None, out))
    elif names is not None:
        output.write(map(comparing.comparison_row, plans), COMPARED, format_name)
    else:
        output.write_one(plans[0].to_dict(), COLUMNS, format_name)
