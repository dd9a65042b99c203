"""`tlcli finetune`: train a classifier on a folder of images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tlcli.cli.flags import QUIET_FLAG, given_options, with_options
from tlcli.runs.options import OPTION_TABLE, RUN_GROUP

if TYPE_CHECKING:
    from tlcli.recipes.finetune import Run


@with_options(OPTION_TABLE)
def command(
    context: typer.Context,
    data: Path = typer.Argument(
        None,
        metavar="[DIR]",
        help="Folder with one sub-folder per class, or with train/ and val/ of that form. May be "
        "left out with --resume or --config.",
        show_default=False,
    ),
    *,
    resume: Path = typer.Option(
        None,
        metavar="DIR",
        help="Run folder of a stopped run to resume.",
        rich_help_panel=RUN_GROUP,
    ),
    config: Path = typer.Option(
        None,
        metavar="FILE",
        help="TOML file of options, such as a run's options.toml. Options on the command line win.",
        rich_help_panel=RUN_GROUP,
    ),
    quiet: bool = QUIET_FLAG,
    **options: Any,
) -> None:
    """Train a classifier on a folder of images.

    The images decide how much of the network is trained; tlcli plan shows that decision alone.
    Prints the path of the trained model.
    """
    from tlcli.cli.progress import Terminal
    from tlcli.cli.signals import stoppable
    from tlcli.recipes.finetune import finetune
    from tlcli.runtime.distributed.process_group import launched_as_rank0

    given = given_options(context, options)
    with Terminal(quiet) as terminal, stoppable() as stop:
        run = finetune(data, config=config, resume=resume, reporter=terminal, **given)
    if launched_as_rank0():
        _report(run)
        if run.status == "interrupted":
            raise typer.Exit(stop.code)


def _report(run: "Run") -> None:
    """Print the accuracies on stderr and the bundle's path on stdout."""
    from tlcli.metrics.metrics import Metrics, accuracy_text
    from tlcli.text import printable

    metrics = Metrics.from_dict(run.metrics)
    typer.echo(f"val accuracy {accuracy_text(metrics)}", err=True)
    if metrics.test is not None:
        typer.echo(f"test accuracy {accuracy_text(metrics.test)}", err=True)
    if run.status == "interrupted":
        folder = printable(str(run.folder))
        typer.echo(f"interrupted; the best so far is saved in {folder}", err=True)
        typer.echo(f"to resume: tlcli finetune --resume {folder}", err=True)
    typer.echo(run.bundle)
