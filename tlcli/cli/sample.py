"""tlcli sample."""

from pathlib import Path
from typing import Any

import typer

from tlcli.errors import UsageError


def command(
    directory: Path = typer.Argument(
        ..., metavar="DIR", help="A new or empty folder; with --augmented one with images."
    ),
    per_class: int = typer.Option(None, min=2, help="Images a class.", show_default="40"),
    augmented: bool = typer.Option(
        False,
        "--augmented",
        help="Draw nothing; write a contact sheet of DIR's training images as training sees them.",
    ),
    augment: str = typer.Option(
        None, help="The augmentation to look at, as in finetune.", show_default="light"
    ),
    model: str = typer.Option(
        None,
        "--model",
        "-m",
        help="The backbone whose resolution is shown.",
        show_default="efficientnet_lite0",
    ),
    views: int = typer.Option(
        None, min=1, max=24, help="Augmented views an image.", show_default="6"
    ),
    output: Path = typer.Option(
        None, "--output", "-o", help="The sheet.", show_default="augmented.png"
    ),
    seed: int = typer.Option(0, min=0, help="Other drawings, or other views, for another number."),
) -> None:
    """Draw a small sample dataset (five kinds of flowers), or show how images are augmented."""
    drawing: dict[str, Any] = {"per_class": per_class}
    looking: dict[str, Any] = {"augment": augment, "model": model, "views": views, "output": output}
    others = drawing if augmented else looking
    if wrong := ["--" + k.replace("_", "-") for k, v in others.items() if v is not None]:
        kind = "without" if augmented else "with"
        raise UsageError(f"{', '.join(wrong)}: only {kind} --augmented", "see tlcli sample --help")
    chosen = {k: v for k, v in (drawing | looking).items() if v is not None}
    if augmented:
        from tlcli.cli.progress import Terminal
        from tlcli.recipes.contact_sheet import contact_sheet

        with Terminal() as terminal:
            typer.echo(contact_sheet(directory, seed=seed, reporter=terminal, **chosen))
        return
    from tlcli.data.drawings.sample import draw_sample

    classes = draw_sample(directory, seed=seed, **chosen)
    per_class = per_class or 40
    typer.echo(f"{per_class} drawings (not photographs) of each of {', '.join(classes)}", err=True)
    typer.echo(directory)
