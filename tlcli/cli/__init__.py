"""The command line: parses, makes one call into the package, prints."""

from tlcli.cli.app import app, main

__all__ = ["app", "main"]
