"""`tlcli demo`: draw flowers, fine-tune on them and predict new ones."""

from dataclasses import asdict
from pathlib import Path

import typer

from tlcli.cli.flags import FORMAT_FLAG

_COLUMNS = ("path", "label", "probability", "error")


def command(
    directory: Path = typer.Argument(
        Path("tlcli-demo"), metavar="[DIR]", help="Folder for the drawings and the runs."
    ),
    format_name: str = FORMAT_FLAG,
) -> None:
    """Draw flowers, fine-tune on them and predict new ones. Needs no network."""
    from tlcli.cli import output
    from tlcli.cli.progress import Terminal
    from tlcli.metrics.metrics import Metrics, accuracy_text
    from tlcli.recipes.demo import demo

    format_name = output.choose_result_format(format_name)
    with Terminal() as terminal:
        done = demo(directory, reporter=terminal)
    accuracy = accuracy_text(Metrics.from_dict(done.run.metrics))
    typer.echo(f"val accuracy {accuracy} on drawings, not photographs", err=True)
    output.write_result(map(asdict, done.predictions), _COLUMNS, format_name)
    typer.echo(f"saved in {done.run.folder}; with your own images: tlcli finetune DIR", err=True)
