"""tlcli predict."""

from pathlib import Path

import typer

from tlcli.cli import output

COLUMNS = ("path", "label", "probability", "error")


def command(
    images: list[str] = typer.Argument(
        ...,
        metavar="IMAGE...",
        help="Image files or folders of them; - reads paths from stdin, one a line.",
    ),
    model: str = typer.Option(
        None,
        "--model",
        "-m",
        envvar="TLCLI_MODEL",
        help="A bundle, a run folder, or a backbone's name (predicts ImageNet's classes).",
        show_default="the newest finished run in ./runs",
    ),
    top: int = typer.Option(None, "--top", "-k", min=1, help="Add the K likeliest classes."),
    format_name: str = output.FORMAT,
    null: bool = typer.Option(False, "-0", help="Paths on stdin end with NUL, not newline."),
    weights: str = typer.Option("auto", help="Weights of a backbone; as in finetune."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or mps."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No notes on stderr."),
) -> None:
    """Name the class of each image, with its probability."""
    from tlcli.cli.inputs import expand
    from tlcli.cli.terminal import Terminal
    from tlcli.inference.predict import load

    format_name = output.resolve(format_name)
    columns = (*COLUMNS, "top") if top else COLUMNS
    failed = 0

    with Terminal(quiet) as terminal:
        classifier = load(model, weights=weights, device_name=device, reporter=terminal)
        if model is None:
            terminal.note(f"model: {Path(classifier.source).parent}")

        def rows() -> output.Rows:
            nonlocal failed
            for answer in classifier.stream(expand(images, null), top=top or 1):
                if answer.error is not None:
                    failed += 1
                    terminal.warn(f"{answer.path}: {answer.error}")
                row = {c: getattr(answer, c) for c in COLUMNS}
                if top:
                    row["top"] = [{"label": n, "probability": p} for n, p in answer.top]
                yield row

        output.write(rows(), columns, format_name)
    if failed:
        raise typer.Exit(3)
