"""`tlcli models`: list the backbones, or show the stages of one."""

import typer

from tlcli.cli.flags import FORMAT_FLAG

_COLUMNS = ("name", "parameters", "gflops", "top1", "size_mb", "resolution", "at_hand")


def command(
    name: str = typer.Argument(
        None, metavar="[NAME]", help="Backbone whose stages to show, or part of a name."
    ),
    at_hand: bool = typer.Option(
        False, "--at-hand", help="List only backbones whose weights need no download."
    ),
    format_name: str = FORMAT_FLAG,
) -> None:
    """List the backbones, or show the stages of one and what each case does with them."""
    from tlcli.backbones.catalogue import catalogue
    from tlcli.backbones.listing import models
    from tlcli.cli import output

    format_name = output.choose_result_format(format_name)
    if name in catalogue():
        _write_stages(name, format_name)
    else:
        output.write_result(models(name or "", at_hand=at_hand), _COLUMNS, format_name)


def _write_stages(name: str, format_name: str) -> None:
    """Write one row per stage: output shape, parameters, and its part in each case."""
    from tlcli.backbones.summary import describe
    from tlcli.cli import output
    from tlcli.planning.stage_table import stage_table

    structure = describe(name)
    side = structure.resolution
    typer.echo(
        f"{name}: {structure.parameters:,} parameters, input 3x{side}x{side}, "
        f"final classifier {structure.head}",
        err=True,
    )
    rows = stage_table(structure)
    columns = [c for c in rows[0] if format_name != "table" or c not in ("part", "classifier")]
    output.write_result(rows, columns, format_name)
