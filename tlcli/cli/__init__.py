"""The command line: each command parses its arguments, makes one call and prints the result."""

from tlcli.cli.app import app, main

__all__ = ["app", "main"]
