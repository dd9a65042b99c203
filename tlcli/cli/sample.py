"""`tlcli sample`: draw a sample dataset, or show how images are augmented."""

from pathlib import Path
from typing import Any

import typer

from tlcli.cli.flags import option_flag
from tlcli.errors import UsageError

DRAWINGS_PER_CLASS = 40
"""Images that are drawn of each class."""


def command(
    directory: Path = typer.Argument(
        ..., metavar="DIR", help="New or empty folder; with --augmented, a folder of images."
    ),
    per_class: int = typer.Option(
        None,
        min=2,
        metavar="INT",
        help="Images to draw per class.",
        show_default=f"{DRAWINGS_PER_CLASS}; 2 or more",
    ),
    augmented: bool = typer.Option(
        False,
        "--augmented",
        help="Draw nothing, but write a contact sheet of DIR's training images as training sees "
        "them.",
    ),
    augment: str = option_flag(
        "augment", help="Augmentation to show, as for finetune.", show_default="light"
    ),
    model: str = typer.Option(
        None,
        "--model",
        "-m",
        metavar="NAME",
        help="Backbone whose resolution the images have.",
        show_default="efficientnet_lite0",
    ),
    views: int = typer.Option(
        None,
        min=1,
        max=24,
        metavar="INT",
        help="Augmented views per image.",
        show_default="6; 1 to 24",
    ),
    output: Path = typer.Option(
        None,
        "--output",
        "-o",
        metavar="FILE",
        help="Contact sheet to write.",
        show_default="augmented.png",
    ),
    seed: int = option_flag("seed", min=0, help="Seed of the drawings or of the views."),
) -> None:
    """Draw a sample dataset of flowers, or show how images are augmented."""
    drawing: dict[str, Any] = {"per_class": per_class}
    sheet: dict[str, Any] = {"augment": augment, "model": model, "views": views, "output": output}
    others = drawing if augmented else sheet
    if wrong := ["--" + k.replace("_", "-") for k, v in others.items() if v is not None]:
        kind = "without" if augmented else "with"
        raise UsageError(f"{', '.join(wrong)}: only {kind} --augmented", "see tlcli sample --help")
    given = {k: v for k, v in {**drawing, **sheet, "seed": seed}.items() if v is not None}
    if augmented:
        _write_sheet(directory, given)
    else:
        _draw(directory, given)


def _write_sheet(directory: Path, given: dict[str, Any]) -> None:
    from tlcli.cli.progress import Terminal
    from tlcli.recipes.contact_sheet import contact_sheet

    with Terminal() as terminal:
        typer.echo(contact_sheet(directory, reporter=terminal, **given))


def _draw(directory: Path, given: dict[str, Any]) -> None:
    from tlcli.data.drawings.sample import draw_sample

    classes = draw_sample(directory, **given)
    per_class = given.get("per_class", DRAWINGS_PER_CLASS)
    typer.echo(f"{per_class} drawings (not photographs) of each of {', '.join(classes)}", err=True)
    typer.echo(directory)
