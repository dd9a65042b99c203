"""tlcli export."""

from pathlib import Path

import typer

from tlcli.cli.flags import MODEL_VARIABLE


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
        help="Format: state-dict (the tensors, for torchvision), exported-program (for torch "
        "alone) or onnx (for onnxruntime and others).",
        show_default="by --output's extension, else state-dict",
    ),
    output: Path = typer.Option(
        None,
        "--output",
        "-o",
        metavar="FILE",
        help="File to write: .pt, .pth or .safetensors for state-dict, .pt2 for exported-program, "
        ".onnx for onnx.",
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
