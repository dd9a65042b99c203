"""tlcli export."""

from pathlib import Path

import typer


def command(
    model: str = typer.Argument(
        None,
        metavar="[BUNDLE]",
        envvar="TLCLI_MODEL",
        help="A bundle or a run folder.",
        show_default="the newest finished run in ./runs",
    ),
    to: str = typer.Option(
        None,
        "--to",
        help="state-dict (the tensors, for torchvision), exported-program (for torch alone) or "
        "onnx (for onnxruntime and others).",
        show_default="by --output's extension, else state-dict",
    ),
    output: Path = typer.Option(
        None,
        "--output",
        "-o",
        help="A file: .pt, .pth or .safetensors; .pt2; .onnx.",
        show_default="beside the bundle",
    ),
    input_name: str = typer.Option(
        None,
        "--input",
        help="What the graph takes, as uint8: image (any size; the preprocessing is inside) or "
        "pixels (resized and cut already).",
        show_default="image",
    ),
    images: Path = typer.Option(
        None,
        "--images",
        help="A folder of images on which the export is compared with the bundle.",
        show_default="the training images",
    ),
) -> None:
    """Write a trained model for other programs, once its answers are the bundle's own."""
    from tlcli.cli.progress import Terminal
    from tlcli.recipes.export import export
    from tlcli.text import printable

    with Terminal() as terminal:
        done = export(
            model, to=to, output=output, input_name=input_name, images=images, reporter=terminal
        )
        terminal.note(f"run it with: python {printable(done.script)} IMAGE...")
    typer.echo(done.file)
