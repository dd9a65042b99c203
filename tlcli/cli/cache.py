"""tlcli cache."""

import typer

from tlcli.cli import output

COLUMNS = ("backbone", "cut", "numbers", "images", "size_mb", "used", "weights")


def command(
    clear: bool = typer.Option(False, "--clear", help="Delete all of it."),
    format_name: str = output.FORMAT,
) -> None:
    """Show what the feature cache holds, or clear it."""
    from tlcli.features.cache import FeatureCache, default_cache_dir

    format_name = output.resolve(format_name)
    cache = FeatureCache(default_cache_dir())
    if clear:
        typer.echo(f"{cache.clear() / 1e6:.1f} MB freed in {cache.folder}", err=True)
        return
    entries = cache.entries()
    total = sum(entry["size_mb"] for entry in entries)
    typer.echo(f"{cache.folder}: {total:.1f} MB", err=True)
    output.write(iter(entries), COLUMNS, format_name)
