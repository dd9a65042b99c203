"""Writes the docs that are made from the program: `python -m docs.make [--check]`.

docs/reference/cli.md is every command with its arguments and options. `--check` writes nothing, and
fails where a page is not what the program would write now.
"""

import sys
from pathlib import Path
from typing import Any

import typer.main

from tlcli.cli import app

HERE = Path(__file__).parent


def cli_reference() -> str:
    """docs/reference/cli.md."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    parts = ["# Commands\n\nMade by `python -m docs.make` from the program; do not edit.\n"]
    for name, command in commands.items():
        names = " ".join(map(_argument, (p for p in command.params if not _is_option(p))))
        parts.append(f"## tlcli {name}\n\n{command.help}\n\n`tlcli {name} [OPTIONS] {names}`\n")
        parts.append("| | | left out |\n|---|---|---|\n" + "".join(map(_row, command.params)))
    return "\n".join(parts)


def _is_option(parameter: Any) -> bool:
    return parameter.opts[0].startswith("-")


def _argument(parameter: Any) -> str:
    return parameter.metavar or parameter.name.upper()


def _row(parameter: Any) -> str:
    """A line of a table: names, what it is for, the default."""
    names = ", ".join(f"`{o}`" for o in parameter.opts)
    if not _is_option(parameter):
        names = f"`{_argument(parameter)}`"
    shown = parameter.show_default if isinstance(parameter.show_default, str) else None
    default = shown or (parameter.default if parameter.default not in (None, False) else "")
    if parameter.required:
        default = "required"
    variable = f" (`${parameter.envvar}`)" if parameter.envvar else ""
    return f"| {names} | {parameter.help}{variable} | {default} |\n"


def main() -> int:
    pages = {HERE / "reference" / "cli.md": cli_reference()}
    stale = [p for p, text in pages.items() if not p.exists() or p.read_text() != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.relative_to(HERE.parent)} is not current: python -m docs.make")
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages[path])
        print(f"wrote {path.relative_to(HERE.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
