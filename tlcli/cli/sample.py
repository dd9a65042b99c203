"""tlcli sample."""

from pathlib import Path

import typer


def command(
    directory: Path = typer.Argument(..., metavar="DIR", help="A new or empty folder."),
    per_class: int = typer.Option(40, min=2, help="Images a class."),
    seed: int = typer.Option(0, min=0, help="Other drawings for another number."),
) -> None:
    """Draw a small sample dataset: five kinds of flowers, drawn by this program."""
    from tlcli.data.sample import draw_sample

    classes = draw_sample(directory, per_class=per_class, seed=seed)
    typer.echo(f"{per_class} drawings (not photographs) of each of {', '.join(classes)}", err=True)
    typer.echo(directory)
