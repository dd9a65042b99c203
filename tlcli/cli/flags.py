"""TODO"""

import typer

CACHE = typer.Option(
    True, "--cache/--no-cache", help="Keep frozen activations on disk for the next run."
)


CACHE_LIMIT = typer.Option(8.0, help="What they may take there, in GB; the oldest go first.")
