"""tlcli check."""

from pathlib import Path

import typer

from tlcli.cli import output


def command(
    data: Path = typer.Argument(..., metavar="DIR", help="A folder of images, as for finetune."),
    val_fraction: float = typer.Option(
        0.2, min=0.01, max=0.9, help="Share held out, where the folder has no val/."
    ),
    seed: int = typer.Option(0, min=0, help="Of the split."),
    format_name: str = output.FORMAT,
) -> None:
    """Look a folder through as finetune would: classes, counts, what is wrong with it."""
    from tlcli.cli.progress import Terminal
    from tlcli.data.dataset import scan
    from tlcli.data.loader import find_unreadable

    format_name = output.resolve(format_name)
    with Terminal() as terminal:
        dataset = scan(data, val_fraction=val_fraction, seed=seed, reporter=terminal)
        samples = (*dataset.train, *dataset.val, *dataset.test)
        unreadable = find_unreadable([s.path for s in samples], terminal)
        if unreadable:
            dataset = dataset.without(unreadable)
        for warning in dataset.warnings:
            terminal.warn(warning)
    rows = [{"class": name, **counts} for name, counts in dataset.counts().items()]
    output.write(rows, ("class", "train", "val", "test"), format_name)
    if unreadable:
        raise typer.Exit(3)
