"""The command line: each command parses its arguments, makes one call and prints the result."""

from tlcli.cli.app import app, run_app

__all__ = ["app", "run_app"]
