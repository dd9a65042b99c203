"""`tlcli cache`: list what the feature cache holds, or clear it."""

import typer

from tlcli.cli.flags import FORMAT_FLAG

_COLUMNS = ("backbone", "cut", "numbers", "images", "size_mb", "used", "weights")


def command(
    clear: bool = typer.Option(False, "--clear", help="Delete everything in the cache."),
    format_name: str = FORMAT_FLAG,
) -> None:
    """List the contents of the feature cache, or clear it."""
    from tlcli.cli import output
    from tlcli.features.cache_contents import cache

    format_name = output.choose_result_format(format_name)
    contents = cache(clear=clear)
    if clear:
        typer.echo(f"freed {contents.freed_mb:.1f} MB in {contents.folder}", err=True)
        return
    typer.echo(f"{contents.folder}: {contents.size_mb:.1f} MB", err=True)
    output.write_result(contents.tables, _COLUMNS, format_name)
