"""tlcli demo."""

from pathlib import Path

import typer

from tlcli.cli import output


def command(
    directory: Path = typer.Argument(
        Path("tlcli-demo"), metavar="[DIR]", help="Where drawings and runs go."
    ),
    format_name: str = output.FORMAT,
) -> None:
    """The main job on drawn flowers: draw, fine-tune, predict. No network needed."""
    from tlcli.cli.progress import Terminal
    from tlcli.metrics.metrics import Metrics, accuracy_text
    from tlcli.recipes.demo import demo

    format_name = output.resolve(format_name)
    with Terminal() as terminal:
        shown = demo(directory, terminal)
    accuracy = accuracy_text(Metrics.from_dict(shown.run.metrics))
    typer.echo(f"val accuracy {accuracy} on drawings, not photographs", err=True)
    rows = [
        {"path": a.path, "label": a.label, "probability": a.probability, "error": a.error}
        for a in shown.answers
    ]
    output.write(rows, ("path", "label", "probability", "error"), format_name)
    typer.echo(
        f"the run is in {shown.run.folder}; now with your own: tlcli finetune FOLDER", err=True
    )
