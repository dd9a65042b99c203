"""`tlcli check`: check a folder the way finetune would read it."""

from pathlib import Path

import typer

from tlcli.cli.flags import FORMAT_FLAG, option_flag
from tlcli.runs.options import OPTION_TABLE

_FRACTION = OPTION_TABLE["val_fraction"]


def command(
    data: Path = typer.Argument(..., metavar="DIR", help="Folder of images, as for finetune."),
    val_fraction: float = option_flag("val_fraction", min=_FRACTION.low, max=_FRACTION.high),
    seed: int = option_flag("seed", help="Seed for the split.", min=0),
    format_name: str = FORMAT_FLAG,
) -> None:
    """Check a folder the way finetune would read it.

    Prints the number of images per class, and warns about everything that is wrong with them.
    """
    from tlcli.cli import output
    from tlcli.cli.progress import Terminal
    from tlcli.recipes.check import check

    format_name = output.choose_result_format(format_name)
    with Terminal() as terminal:
        result = check(data, val_fraction=val_fraction, seed=seed, reporter=terminal)
    output.write_result(result.rows(), ("class", "train", "val", "test"), format_name)
    if result.unreadable:
        raise typer.Exit(3)
