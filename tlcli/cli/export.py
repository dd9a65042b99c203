"""`tlcli export`: write a trained model for other programs."""

from pathlib import Path

import typer

from tlcli.artifacts.export.formats import FORMATS
from tlcli.cli.flags import MODEL_VARIABLE
from tlcli.text import join_or

_FORMATS = join_or(f"{f.name} ({f.help})" for f in FORMATS.values())
_SUFFIXES = ", ".join(f"{join_or(f.suffixes)} for {f.name}" for f in FORMATS.values())


def command(
    model: str = typer.Argument(
        None,
        metavar="[BUNDLE]",
        envvar=MODEL_VARIABLE,
        help="Bundle or run folder.",
        show_default="the newest finished run in ./runs",
    ),
    to: str = typer.Option(
        None,
        "--to",
        metavar="NAME",
        help=f"Format: {_FORMATS}.",
        show_default="by --output's extension, else state-dict",
    ),
    output: Path = typer.Option(
        None,
        "--output",
        "-o",
        metavar="FILE",
        help=f"File to write: {_SUFFIXES}.",
        show_default="beside the bundle",
    ),
    input_name: str = typer.Option(
        None,
        "--input",
        metavar="NAME",
        help="Input of the graph, as uint8: image (any size; preprocessing is part of the graph) "
        "or pixels (already resized and cropped).",
        show_default="image",
    ),
    images: Path = typer.Option(
        None,
        "--images",
        metavar="DIR",
        help="Folder of images to compare the export with the bundle on.",
        show_default="the training images",
    ),
) -> None:
    """Export a trained model for other programs.

    The file is kept only if its predictions are those of the bundle.
    """
    from tlcli.cli.progress import Terminal
    from tlcli.recipes.export import export
    from tlcli.text import printable

    with Terminal() as terminal:
        done = export(
            model, to=to, output=output, input_name=input_name, images=images, reporter=terminal
        )
        terminal.note(f"run it with: python {printable(done.script)} IMAGE...")
    typer.echo(done.file)
