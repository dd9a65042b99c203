"""tlcli models."""

import typer

from tlcli.cli import output

COLUMNS = ("name", "parameters", "gflops", "top1", "size_mb", "resolution", "at_hand")


def command(
    name: str = typer.Argument(
        None, metavar="[NAME]", help="A backbone, to see its structure, or a part of names."
    ),
    at_hand: bool = typer.Option(
        False, "--at-hand", help="Only those whose weights need no download."
    ),
    format_name: str = output.FORMAT,
) -> None:
    """List the backbones, or show the stages of one and what each case does with them."""
    from tlcli.backbones.catalogue import catalogue

    format_name = output.resolve(format_name)
    if name in catalogue():
        _structure(name, format_name)
    else:
        _list(name or "", at_hand, format_name)


def _list(pattern: str, at_hand: bool, format_name: str) -> None:
    """Entries whose name or family holds the pattern, as rows."""
    from dataclasses import asdict

    from tlcli.backbones import catalogue

    entries = catalogue.catalogue()
    chosen = [e for e in entries.values() if pattern in e.name or pattern in e.family]
    if not chosen:
        catalogue.find_entry(pattern)
    rows = ({**asdict(e), "at_hand": catalogue.at_hand(e)} for e in chosen)
    output.write((r for r in rows if r["at_hand"] or not at_hand), COLUMNS, format_name)


def _structure(name: str, format_name: str) -> None:
    """A row a stage: output shape, parameters, and its part in each of the four cases."""
    from tlcli.backbones.summary import describe
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
    output.write(iter(rows), columns, format_name)
