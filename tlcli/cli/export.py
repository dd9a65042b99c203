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
    to: str = typer.Option("state-dict", "--to", help="state-dict: the weights, for torchvision."),
    output: Path = typer.Option(
        None,
        "--output",
        "-o",
        help="A .pt, .pth or .safetensors file.",
        show_default="state-dict.pt beside the bundle",
    ),
) -> None:
    """Write a trained model for other programs."""
    from tlcli.artifacts.export import FORMATS, export_state_dict
    from tlcli.artifacts.run import find_bundle, newest_run
    from tlcli.errors import choice

    choice("--to", to, FORMATS)
    written, snippet = export_state_dict(find_bundle(model) if model else newest_run(), output)
    typer.echo(f"load it with:\n\n{snippet}\n", err=True)
    typer.echo(written)
